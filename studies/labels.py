"""The words of the derived parts of the documents: (English, Russian) pairs, and which figures a table shows."""

Pair = tuple[str, str]

# Columns of the tables of draws: (kind of request, figure) -> (label, whether it is a share).
JSON_COLUMNS: dict[tuple[str, str], tuple[Pair, bool]] = {
    ("json", "valid"): (("JSON parses", "JSON разбирается"), True),
    ("json", "right"): (("JSON right", "JSON верен"), True),
    ("json", "distinct_texts"): (("different texts", "разных текстов"), False),
    ("held-out transfers", "right"): (("held-out transfers right", "отложенные переводы верны"), True),
}
SOUND_COLUMNS: dict[tuple[str, str], tuple[Pair, bool]] = {
    ("hedgehog", "ended"): (("ends", "кончается"), True),
    ("hedgehog", "kept"): (("keeps its hero", "держит героя"), True),
    ("held-out stories", "kept"): (("held-out stories keep theirs", "отложенные держат своего"), True),
    ("hedgehog", "repetition"): (("rep-4", "rep-4"), True),
}
VARIED_COLUMNS: dict[tuple[str, str], tuple[Pair, bool]] = {
    ("hedgehog", "distinct_texts"): (("different texts", "разных текстов"), False),
    ("hedgehog", "distinct_2"): (("distinct-2 of two stories", "distinct-2 двух сказок"), False),
    ("hedgehog", "log_prob"): (("log-probability of a token", "лог-вероятность токена"), False),
    ("hedgehog", "outside"): (("draws outside the top 0.9", "выборы вне верхних 0,9"), True),
}
BEAM_COLUMNS: tuple[Pair, ...] = (
    ("story: log-probability", "сказка: лог-вероятность"), ("tokens", "токенов"), ("JSON right", "JSON верен"),
    ("finished candidates, story and JSON", "закончено текстов, сказок и JSON"),
)
HELD_OUT_BEAM_COLUMNS: tuple[Pair, ...] = (
    ("transfers right", "переводы верны"), ("story likelier than greedy's", "сказка вероятнее жадной"),
    ("less likely", "менее вероятна"), ("keeps its hero", "держит героя"),
)
CANDIDATE_COLUMNS: tuple[Pair, ...] = (
    ("place", "место"), ("score", "счёт"), ("log-probability", "лог-вероятность"), ("tokens", "токенов"),
    ("right", "верен"),
)
EVALUATION_HEADS = ("measured", "result")
EVALUATION_LINES = {
    "transfers_exact": ("500 held-out transfers, greedy: the JSON exact", "{:.1%}"),
    "stories_ended": ("200 stories for held-out heroes, temperature 0.8, top_p 0.95: end within 400 tokens", "{:.1%}"),
    "stories_keeping_name_and_animal": ("keep the asked name and animal to the end", "{:.1%}"),
    "distinct_first_sentences": ("distinct first sentences", "{}"),
    "most_repeats_of_a_sentence": ("most repeats of one sentence within a story", "{}"),
    "median_words": ("words in a story, median", "{:g}"),
}
TRAINING_COLUMNS = {
    "step": ("step", "d"),
    "seconds": ("seconds", "d"),
    "train_loss": ("training loss", ".3f"),
    "validation_loss": ("validation loss", ".3f"),
    "perplexity": ("perplexity", ".1f"),
}
SPEED_HEADS = ("beside", "work", "our speed over theirs")
SPEED_MODELS = {
    ("generator", "float32"): "`generate`, the shipped decoder",
    ("qwen-shape", "bfloat16"): "`generate`, Qwen2.5-0.5B's shape, bfloat16",
    ("qwen-shape", "float32"): "`generate`, Qwen2.5-0.5B's shape, float32",
}
SPEED_WORKS = {
    "one greedy stream": "one greedy text",
    "eight sampled rows": "eight sampled texts at once",
    "the five tasks": "all settings of the five tasks",
}
TRAINING_STEP = "training step, {layers} layers of {width}, {rows} windows of {window}, {dtype}"
STEP_RATIOS = "{ratio_with_adamw_alone:.2f} with AdamW alone, {ratio:.2f} with Muon"
SHAKESPEARE = "Shakespeare by characters, whole command; validation loss {ours:.2f}, nanoGPT's {nanogpt:.2f}"

MESSAGE_ROWS: dict[str, Pair] = {  # the rows of evaluate_autocomplete.py in the documents, in this order
    "constant": ("constant answer", "постоянный ответ"),
    "n-gram": ("n-gram", "n-граммы"),
    "lstm": ("LSTM", "LSTM"),
    "gboard": ("LSTM in Gboard's shape", "LSTM в форме Gboard"),
    "rest": ("LSTM, the loss on last quarters", "LSTM, потери по последним четвертям"),
    "generator": ("our decoder, from nothing", "наш декодер, с нуля"),
    "smollm2": ("SmolLM2 as it is", "SmolLM2 как есть"),
    "tuned": ("SmolLM2, fine-tuned", "SmolLM2, дообученная"),
}
MESSAGE_PAIRS = (("lstm", "n-gram"), ("generator", "lstm"), ("tuned", "lstm"), ("tuned", "smollm2"))  # one row minus another
REPLY_ROWS: dict[str, Pair] = {  # the rows of evaluate_replies.py and of studies.reply_heads; others are called as they are
    "real": ("real replies", "настоящие ответы"),
    "safe": ("safe reply", "безопасный ответ"),
    "none": ("no control", "без управления"),
    "untrained": ("untrained control", "необученное управление"),
    "token": ("control tokens", "управляющие токены"),
    "embedding": ("vectors at the input", "векторы на входе"),
    "hidden": ("vector on the last hidden state", "вектор на последнем скрытом состоянии"),
    "frozen": ("frozen base", "замороженная основа"),
    "lora": ("LoRA", "LoRA"),
    "full": ("all weights", "все веса"),
    "refinement": ("refinement head", "поправка перед выходом"),
    "own-head": ("output head of its own", "собственная выходная голова"),
    "first": ("heads on the first token", "головы на первом токене"),
}
REPLY_JUDGES: dict[str, Pair] = {
    "tone": ("tone", "тон"),
    "tone_without_opening": ("tone, without the opening", "тон, без начала"),
    "tone_by_rule": ("tone, the published rule", "тон, опубликованное правило"),
    "tone_by_forms": ("tone, forms of вы and ты", "тон, формы вы и ты"),
    "category": ("category", "категория"),
    "decision": ("decision", "решение"),
    "category_of_request": ("category of the request", "категория запроса"),
    "intent": ("what was asked", "о чём просили"),
}
TYPED_TOTALS: dict[str, Pair] = {
    "category_read": ("category read from the request", "категория прочитана из запроса"),
    "reply": ("reply about that category, by the judge", "ответ о той же категории, по судье"),
    "others": ("other requests answered honestly, by the judge", "на чужие запросы отвечено честно, по судье"),
    "tone": ("tone as asked, by the judge", "тон как просили, по судье"),
}

SETTING: Pair = ("setting", "настройка")
PLAIN: Pair = ("as it is", "как есть")
NAMES: dict[str, Pair] = {"temperature": ("temperature", "температура")}  # the other settings are called alike
SAMPLE: Pair = ("sample", "проба")
STORY: Pair = ("Story", "Сказка")
TOKENS: Pair = ("tokens", "токенов")
STOPS: dict[str, Pair] = {"eos": ("ended by itself", "кончилась сама"), "limit": ("cut off", "обрезана")}
SAME_AS_GREEDY: Pair = ("the story of task 1, word for word", "сказка задачи 1, слово в слово")
YES_NO: dict[bool, Pair] = {True: ("yes", "да"), False: ("no", "нет")}
RIGHT: dict[bool, Pair] = {True: ("right", "верно"), False: ("wrong", "неверно")}
