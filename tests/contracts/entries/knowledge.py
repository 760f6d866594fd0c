"""The public names of `equipoise.knowledge` beside those of the other modules that begin alike."""

ENTRIES = []

OTHERS = {
    "equipoise.knowledge.Answers": "what the completer gives",
    "equipoise.knowledge.CompleterSettings": "settings, each checked by its type; its test gives bad ones",
    "equipoise.knowledge.KnowledgeGraphCompleter": "settings are checked by CompleterSettings; its test fits it",
}
