from .efficientnet import EfficientNetLite0 as EfficientNetLite0
from .encoders import EncoderCard as EncoderCard
from .encoders import ImageEncoder as ImageEncoder
from .encoders import TextEncoder as TextEncoder
from .feature_cache import cached_features as cached_features
from .images import image_encoder as image_encoder
from .images import prepare_images as prepare_images
from .texts import text_encoder as text_encoder
