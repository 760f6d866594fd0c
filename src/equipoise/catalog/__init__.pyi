from .declarations import declared as declared
from .declarations import declared_by as declared_by
from .declarations import rooms as rooms
from .papers import Paper as Paper
from .papers import find_paper as find_paper
from .papers import load_catalog as load_catalog
from .table import methods_table as methods_table
from .table import update_methods_table as update_methods_table
