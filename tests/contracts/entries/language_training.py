"""The public names of `equipoise.language` that train a student."""

# The room is that of `entries/language.py`.
PACKAGES: list[str] = []
ENTRIES = ()

_OF_ROWS = "takes texts, files or tokenizers; tests/language/distillation/test_data.py gives it bad ones"
_OF_MODELS = "takes language models, which are asked or trained; tests/language/distillation gives it bad parts"
OTHERS = {
    "equipoise.language.AdaptiveReplay": _OF_MODELS,
    "equipoise.language.DistillationMixin": _OF_MODELS,
    "equipoise.language.DistillationObjective": _OF_MODELS,
    "equipoise.language.Sampling": "a record of settings, checked when it is made",
    "equipoise.language.StudentPrefixes": _OF_MODELS,
    "equipoise.language.StudentTrainer": _OF_MODELS,
    "equipoise.language.TeacherCache": "made of files; tests/language/distillation/test_offline.py gives it bad ones",
    "equipoise.language.TextRow": "a record that `read_text_rows` makes",
    "equipoise.language.TokenRow": "a record that `encode_texts` makes",
    "equipoise.language.answer_prompts": _OF_MODELS,
    "equipoise.language.check_same_tokens": _OF_ROWS,
    "equipoise.language.collate_tokens": _OF_ROWS,
    "equipoise.language.encode_texts": _OF_ROWS,
    "equipoise.language.generate_batch": _OF_MODELS,
    "equipoise.language.read_text_rows": _OF_ROWS,
    "equipoise.language.write_teacher_cache": _OF_MODELS,
}
