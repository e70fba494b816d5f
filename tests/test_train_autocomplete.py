"""train_autocomplete.py: learning, stopping and going on, what a run leaves, and bad input."""

from support.errors import InputError

import csv
import json
import os
import random
import signal

import train_autocomplete
from data.messages import part_of, split_x_target_by_words
from lstm import LSTMLM, load_lstm_lm
from models.loading import load_model
from models.lstm import LSTMConfig
from train_autocomplete import equal_decoder, num_parameters, parse_arguments, shuffled, train, unfinished
from training.trainer import Trainer

import pytest
import torch

TINY = ("--embedding-size", "8", "--hidden-size", "16", "--vocab-size", "300", "--batch-size", "16", "--num-epochs", "2",
        "--dtype", "float32", "--eval-every", "4")  # fmt: skip
DECODER = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
pytestmark = pytest.mark.usefixtures("signals", "no_curve")


@pytest.fixture(scope="session")
def tweets(tmp_path_factory):
    """A Sentiment140 file of 120 different messages, sorted by target, some with a mention."""
    path = tmp_path_factory.mktemp("texts") / "tweets.csv"
    rng = random.Random(0)
    words = "i you we am are so very tired happy sad today tonight rain sun work home".split()
    texts = [" ".join(rng.choices(words, k=rng.randint(3, 9))) + f" {i}" for i in range(120)]
    with path.open("w", encoding="latin-1", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(
            ["0" if i < 60 else "4", i, "", "NO_QUERY", "user", f"@user {text}!"] for i, text in enumerate(texts))
    return path


@pytest.fixture
def start(tmp_path, tweets, capsys, monkeypatch):
    """Train in this process: the output folder."""
    monkeypatch.setattr(train_autocomplete, "GENERATOR", DECODER)
    monkeypatch.setattr(train_autocomplete, "SAMPLE_TOKENS", 3)

    def start(name, *flags):
        train(*parse_arguments(["--text", str(tweets), *TINY, "--output", str(tmp_path / name), *map(str, flags)]))
        return tmp_path / name
    return start


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call the script as a user does: (exit code, what it printed, its errors). The output folder is tmp_path / "out"."""
    def call(*flags):
        monkeypatch.setattr("sys.argv", ["train_autocomplete.py", *TINY, "--output", str(tmp_path / "out"), *map(str, flags)])
        code = 0
        try:
            train_autocomplete.main()
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())
    return call


def rows(folder):
    """The metrics without the seconds, which no two trainings share."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def signal_at(monkeypatch, step, number=signal.SIGINT):
    """Sends this process a signal while it computes the given step, counted from 1."""
    take_step = Trainer.take_step

    def signalled(trainer, *args):
        if trainer.step == step - 1:
            os.kill(os.getpid(), number)
        return take_step(trainer, *args)
    monkeypatch.setattr(Trainer, "take_step", signalled)


# --- learning, and what a run leaves


def test_an_lstm_learns_and_leaves_a_folder(start, tweets):
    """Guards a run: the loss falls; the folder holds the model, the cleaned messages, the curve's figures and meta.json."""
    folder = start("out", "--learning-rate", "0.02", "--num-epochs", "8")
    losses = [row["loss"] for row in rows(folder) if "loss" in row]
    assert sum(losses[-3:]) / 3 < losses[0] - 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "messages.txt", "meta.json", "metrics.jsonl", "model.safetensors", "special_tokens_map.json",
        "tokenizer.json", "tokenizer_config.json", "vocab.txt"]  # fmt: skip
    tokenizer, model, _, eos_id = load_lstm_lm(folder)
    assert model.generate(tokenizer("i am", return_tensors="pt").input_ids, eos_id=eos_id).shape[1] > 3
    meta, best = json.loads((folder / "meta.json").read_text("utf-8")), min(
        (row for row in rows(folder) if "validation_loss" in row), key=lambda row: row["validation_loss"])
    assert meta["figures"] == {name: best[name] for name in ("validation_loss", "perplexity", "bits_per_character")}
    assert meta["step"] == best["step"] and meta["parameters"] == num_parameters(model)
    assert meta["counts"]["kept"] == 120 and meta["text"] == "tweets.csv" and len(meta["sha256"]) == 64
    messages = (folder / "messages.txt").read_text("utf-8").splitlines()
    assert len(messages) == 120 and all(message == message.lower() and "@" not in message for message in messages)


def test_only_the_training_part_is_learned(start, monkeypatch):
    """Bug of published solutions: the tokenizer, or the model, had seen the test messages. Both are given messages of the
    training part alone, in an order drawn from the seed: the file is sorted."""
    given = {}
    learn, tokens = train_autocomplete.learn_tokenizer, train_autocomplete.next_tokens
    monkeypatch.setattr(train_autocomplete, "learn_tokenizer",
                        lambda texts, size: given.setdefault("tokenizer", texts) and learn(texts, size))
    monkeypatch.setattr(train_autocomplete, "next_tokens",
                        lambda tokenizer, texts, rest: given.setdefault(len(given), texts) and tokens(tokenizer, texts, rest))
    start("out", "--num-epochs", "1")
    assert {part_of(text) for text in given["tokenizer"]} == {part_of(text) for text in given[1]} == {"train"}
    assert {part_of(text) for text in given[2]} == {"validation"}
    numbers = [int(text.split()[-1]) for text in given[1]]
    assert numbers != sorted(numbers) and {number < 60 for number in numbers[:20]} == {True, False}


def test_so_many_messages_are_seen(start):
    """Guards --num-messages: a part of what more messages would be, for curves over messages seen."""
    messages = [str(i) for i in range(100)]
    assert shuffled(messages, 10, 3) == shuffled(messages, 20, 3)[:10] != shuffled(messages, 10, 4)
    meta = json.loads((start("out", "--num-messages", "32", "--num-epochs", "1") / "meta.json").read_text("utf-8"))
    assert meta["messages"] == 32


def test_the_tasks_own_rule_counts_the_rest_alone(start, monkeypatch):
    """Guards --loss-on rest: bits per character are of the rests' characters."""
    seen = {}
    monkeypatch.setattr(train_autocomplete, "MessageEvaluator", lambda model, messages, characters, *others: seen.update(
        characters=characters) or (lambda: {"validation_loss": 1.0, "perplexity": 1.0, "sample": ""}))
    monkeypatch.setattr(Trainer, "run", lambda trainer, *others: None)
    folder = start("out", "--loss-on", "rest")
    messages = (folder / "messages.txt").read_text("utf-8").splitlines()
    assert seen["characters"] == sum(len(split_x_target_by_words(message)[1]) for message in messages
                                     if part_of(message) == "validation")


def test_a_decoder_of_as_many_parameters(start):
    """Guards --model generator: within one unit of the feed-forward width of the LSTM's parameters; its folder opens in the
    tasks, where its prompts are plain text behind BOS."""
    config = LSTMConfig(300, 8, 16)
    folder = start("out", "--model", "generator", "--num-epochs", "1")
    loaded = load_model(str(folder))
    assert abs(num_parameters(LSTMLM(config)) - loaded.identity["parameters"]) <= 3 * DECODER["hidden_size"]
    assert loaded.tokenizer("i am").input_ids[0] == 0 and loaded.eos_ids == {2}
    with pytest.raises(InputError, match="smaller than any decoder"):
        equal_decoder(LSTMConfig(300, 2, 1))


def test_a_pretrained_model_is_fine_tuned(start, model_folder):
    """Guards LoRA on a folder: the adapter is loaded beside its base, and knows what it was learned from."""
    folder = start("out", "--model", str(model_folder), "--num-epochs", "1", "--lora-rank", "2")
    assert {"adapter_config.json", "adapter_model.safetensors", "meta.json"} <= {path.name for path in folder.iterdir()}
    loaded = load_model(str(model_folder), adapter=folder)
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    assert meta["trained_parameters"] < meta["parameters"] > loaded.identity["parameters"]


def test_the_built_in_writer_needs_no_file(tmp_path, monkeypatch, capsys):
    """Guards training offline at once."""
    monkeypatch.setattr(train_autocomplete, "SENTENCES", 150)
    train(*parse_arguments([*TINY, "--keep-case", "--output", str(tmp_path / "out")]))
    assert any(message[0].isupper() for message in (tmp_path / "out" / "messages.txt").read_text("utf-8").splitlines())
    assert "150 messages read" in capsys.readouterr().out


# --- stopping and going on


@pytest.mark.parametrize("flags", [("--dropout", "0.3"), ("--model", "generator")])
def test_a_resumed_training_is_the_uninterrupted_one(start, tmp_path, monkeypatch, flags):
    """Guards bit for bit: the same losses and weights after stops within an epoch and at an evaluation, with dropout."""
    whole = start("whole", *flags)
    for step in (2, 4):
        with monkeypatch.context() as patch:
            signal_at(patch, step)
            with pytest.raises(KeyboardInterrupt):
                start("stopped", *flags) if step == 2 else start("stopped", "--resume")
    stopped = start("stopped", "--resume")
    assert rows(whole) == rows(stopped)
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_resumed_fine_tuning_is_the_uninterrupted_one(start, monkeypatch, model_folder):
    """Guards the additions' state, which does not hold the base."""
    flags = ("--model", str(model_folder), "--lora-rank", "2", "--num-epochs", "1")
    whole = start("whole", *flags)
    with monkeypatch.context() as patch:
        signal_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            start("stopped", *flags)
    assert rows(start("stopped", "--resume")) == rows(whole)


def test_ctrl_c_says_how_to_go_on(call, tweets, tmp_path, monkeypatch):
    """Guards Ctrl-C: exit code 130, the interrupted step is among the saved ones, and the hint names the folder."""
    signal_at(monkeypatch, 3)
    code, _, errors = call("--text", tweets)
    assert code == 130 and f"--output {tmp_path / 'out'} --resume" in errors
    state = torch.load(tmp_path / "out" / train_autocomplete.WORK / "state.pt", weights_only=True)
    assert state["progress"]["step"] == 3


def test_resume_alone_goes_on_with_the_last_one(tmp_path, monkeypatch):
    """Guards --resume without a folder, and the name of a run."""
    with pytest.raises(InputError, match="no unfinished training"):
        unfinished(tmp_path, train_autocomplete.NAMES)
    for number, name in enumerate(("lstm_lm-1", "generator_lm-2", "pretrained_lm-3")):
        (tmp_path / name / train_autocomplete.WORK).mkdir(parents=True)
        if number < 2:
            (tmp_path / name / train_autocomplete.WORK / "state.pt").touch()
            os.utime(tmp_path / name / train_autocomplete.WORK / "state.pt", (number, number))
    assert unfinished(tmp_path, train_autocomplete.NAMES) == tmp_path / "generator_lm-2"
    assert parse_arguments([])[0].name.startswith("lstm_lm-2")


# --- bad input


@pytest.mark.parametrize("flags, words", [
    (("--text", "nowhere.csv"), "there is no file"), (("--model", "lstm", "--full"), "--full is for a pretrained model"),
    (("--vocab-size", "100", "--text", "TWEETS"), "--vocab-size 100 cannot hold"), (("--dropout", "1"), "--dropout"),
    (("--num-messages", "0"), "--num-messages"), (("--model", "nowhere/at/all", "--text", "TWEETS"), "no model"),
    (("--resume",), "holds no unfinished training"), (("--loss-on", "half"), "--loss-on"),
    (("--model", "checkpoint_lstm", "--text", "TWEETS"), "is an LSTM"),
])  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(call, tmp_path, tweets, flags, words):
    code, _, errors = call(*(tweets if flag == "TWEETS" else flag for flag in flags))
    assert code == 2 and words in errors and errors.startswith("error: ") and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content, words", [
    (b"", "holds no messages"), (b"one,two\n", "has 2 columns"), (b"a\n" * 50, "row 1 has 1 columns"),
    (b'"0","1","","","u","' + b"x" * 10_000 + b'"\n', "of 1 messages 0 are left"),
])  # fmt: skip
def test_a_bad_file_is_one_line_and_leaves_nothing(call, tmp_path, content, words):
    """Guards an empty CSV, wrong columns, one message of 10,000 characters."""
    (tmp_path / "bad.csv").write_bytes(content)
    code, _, errors = call("--text", tmp_path / "bad.csv")
    assert code == 2 and words in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_messages_of_one_word_train(call, tmp_path):
    """Guards messages without a rest: they are learned, counted, and no sample is written for them."""
    (tmp_path / "words.txt").write_text("\n".join(f"word{i}" for i in range(60)), "utf-8")
    code, out, errors = call("--text", tmp_path / "words.txt", "--num-epochs", "1")
    assert code == 0, errors
    assert "60 without rest" in out and "--prompt word" in out  # bug: what was to be tried had no text


def test_messages_without_a_last_quarter_teach_none(call, tmp_path):
    """Bug: a division by zero, which left half a training."""
    (tmp_path / "words.txt").write_text("\n".join(f"word{i}" for i in range(60)), "utf-8")
    code, _, errors = call("--text", tmp_path / "words.txt", "--loss-on", "rest")
    assert code == 2 and "there are no last quarters" in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_alphabet_is_noticed(call, tmp_path):
    """Bug: of Russian messages the few with Latin letters were learned without a word."""
    texts = [f"привет {i}" if i % 4 == 0 else "привет" for i in range(400)]
    (tmp_path / "words.txt").write_text("\n".join(texts), "utf-8")
    code, _, errors = call("--text", tmp_path / "words.txt", "--num-epochs", "1")
    assert code == 0 and "--keep-case keeps every alphabet" in errors


def test_a_finished_run_and_a_users_file_are_not_overwritten(call, tweets, tmp_path):
    """Guards the output folder; what a kill left of a training before its first state is no hindrance."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "messages.txt").write_text("mine")
    code, _, errors = call("--text", tweets)
    assert code == 2 and "holds a training already" in errors and (folder / "messages.txt").read_text() == "mine"
    (folder / train_autocomplete.WORK).mkdir()
    assert call("--text", tweets, "--num-epochs", "1")[0] == 0
    code, _, errors = call("--text", tweets)
    assert code == 2 and "holds a training already" in errors


def test_what_a_run_says_of_itself_names_no_folder_of_the_machine(start, monkeypatch, tweets):
    """Guards meta.json, which a shipped model has beside it: absolute paths are cut to their last part."""
    monkeypatch.setattr("sys.argv", ["/home/me/train_autocomplete.py", "--text", str(tweets), "--output", "runs/out"])
    folder = start("out", "--num-epochs", "1")
    meta = (folder / "meta.json").read_text("utf-8")
    assert str(tweets.parent) not in meta
    assert json.loads(meta)["command"] == "python train_autocomplete.py --text tweets.csv --output runs/out"


def test_a_loss_that_is_not_finite_ends_the_training(call, tweets, tmp_path, monkeypatch):
    """Guards divergence: one line with what to do, and nothing is left."""
    monkeypatch.setattr(train_autocomplete, "message_loss",
                        lambda model, batch: (next(model.parameters()).sum() * float("nan"), 1))
    code, _, errors = call("--text", tweets)
    assert code == 2 and "try a lower --learning-rate" in errors
    assert not (tmp_path / "out").exists()
