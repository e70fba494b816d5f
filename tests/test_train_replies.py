"""train_replies.py: learning, the bases and what is tuned of them, stopping and going on, failures, and bad input."""

from support.errors import InputError

import csv
import json
import os
import random
import shutil
import signal

import train_replies
from data.replies import part_of
from models.control import REQUEST
from models.control_folder import load_controlled, read_settings
from replier import Replier
from tests.helpers import random_model
from train_replies import parse_arguments, train, trained_model
from training import reply_data
from training.trainer import Trainer

import pytest
import torch
from safetensors.torch import load_file

TINY = ("--hidden-size", "16", "--num-layers", "1", "--vocab-size", "340", "--batch-size", "8", "--num-epochs", "1",
        "--dtype", "float32", "--eval-every", "3")  # fmt: skip
TEXTS = {"firm": "You must wait for the {}.", "kind": "We are so happy to help with the {}!"}
THINGS = {"roads": ("street", "lamp", "kerb"), "taxes": ("bill", "fee", "duty")}
pytestmark = pytest.mark.usefixtures("signals", "no_curve")


@pytest.fixture(scope="session")
def replies(tmp_path_factory):
    """A CSV of 100 replies with tone and category, each request another."""
    path, rng = tmp_path_factory.mktemp("replies") / "replies.csv", random.Random(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["request", "reply", "tone", "category"])
        for _ in range(100):
            tone, category = rng.choice(list(TEXTS)), rng.choice(list(THINGS))
            thing, name = rng.choice(THINGS[category]), "".join(rng.choices("abcdefgh", k=5))
            rows.writerow([f"the {thing} {name} is wrong", TEXTS[tone].format(thing), tone, category])
    return path


@pytest.fixture
def start(tmp_path, replies, capsys, monkeypatch):
    """Train in this process: the output folder."""
    monkeypatch.setattr(train_replies, "SAMPLE_TOKENS", 3)
    monkeypatch.setattr(train_replies, "CONTEXT", 128)

    def start(name, *flags):
        text = [] if "--failures" in flags else ["--text", str(replies)]
        train(*parse_arguments([*text, *TINY, "--output", str(tmp_path / name), *map(str, flags)]))
        return tmp_path / name
    return start


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call the script as a user does: (exit code, what it printed, its errors). The output folder is tmp_path / "out"."""
    def call(*flags):
        monkeypatch.setattr("sys.argv", ["train_replies.py", *TINY, "--output", str(tmp_path / "out"), *map(str, flags)])
        code = 0
        try:
            train_replies.main()
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())
    return call


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, model_folder):
    """Random bases in folders, by their kind."""
    folders = {}
    for kind in ("llama", "gpt2"):
        folders[kind] = tmp_path_factory.mktemp("bases") / kind
        shutil.copytree(model_folder, folders[kind])
        random_model(0, vocab=259, kind=kind, context=400).save_pretrained(folders[kind])
    return folders


def rows(folder):
    """The metrics without the seconds, which no two trainings share."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def losses(folder):
    return [row["loss"] for row in rows(folder) if "loss" in row]


def meta(folder):
    return json.loads((folder / "meta.json").read_text("utf-8"))


def signal_at(monkeypatch, step, number=signal.SIGINT):
    """Sends this process a signal while it computes the given step, counted from 1."""
    take_step = Trainer.take_step

    def signalled(trainer, *args):
        if trainer.step == step - 1:
            os.kill(os.getpid(), number)
        return take_step(trainer, *args)
    monkeypatch.setattr(Trainer, "take_step", signalled)


# --- learning, and what a run leaves


@pytest.fixture(scope="module")
def trained(tmp_path_factory, replies):
    """A small decoder that has learned: its folder, with the curve."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_replies, "CONTEXT", 128)
        patch.setattr(train_replies, "EVALUATIONS", 2)
        patch.setattr("training.metrics.Metrics.draw", lambda self: None)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        train(*parse_arguments(["--text", str(replies), *TINY[:-4], "--hidden-size", "32", "--num-epochs", "14",
                                "--learning-rate", "0.02", "--dropout", "0", "--output", str(folder)]))
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return folder


def test_a_decoder_learns_and_leaves_a_folder(trained):
    """Guards a run: the loss falls; the folder holds the model, its control, the curve's figures and meta.json, and nothing of
    the replies that it has learned."""
    assert sum(losses(trained)[-3:]) / 3 < losses(trained)[0] - 3
    assert sorted(path.name for path in trained.iterdir()) == [
        "config.json", "control.json", "control.safetensors", "generation_config.json", "meta.json", "metrics.jsonl",
        "model.safetensors", "tokenizer.json", "tokenizer_config.json"]  # fmt: skip
    best = min((row for row in rows(trained) if "validation_loss" in row), key=lambda row: row["validation_loss"])
    figures = meta(trained)["figures"]
    assert figures == {name: best[name] for name in ("validation_loss", "language_model", "perplexity", "heads")}
    assert set(figures["heads"]) == {"tone", "category", REQUEST} and meta(trained)["step"] == best["step"]
    assert sum(meta(trained)["counts"]["part"].values()) == 100 and len(meta(trained)["sha256"]) == 64


def test_what_was_trained_replies_in_the_tone_asked_for(trained):
    """Guards the whole way: two tones for one request, which the texts show from their first word, and the heads tell."""
    replier = Replier.load(trained)
    for tone, first in (("firm", "You"), ("kind", "We")):
        one, = replier.write("the lamp abcde is wrong", {"tone": tone}, seed=0, candidates=4)
        assert one.text.startswith(first) and one.judged["tone"] == tone
    assert replier.category_of("the bill hgfed is wrong")[0] == "taxes"


def test_only_the_training_part_is_learned(start, monkeypatch):
    """Guards the judge, which must not have seen what the generator and its heads learned, nor they what it did: the tokenizer
    and the rows are those of the part "train" alone, and what is validated on is of its own part."""
    given = []
    learn, data = train_replies.learn_tokenizer, train_replies.ReplyDataset
    monkeypatch.setattr(train_replies, "learn_tokenizer", lambda texts, size: given.append(texts) or learn(texts, size))
    monkeypatch.setattr(train_replies, "ReplyDataset", lambda model, tokenizer, texts, *others, **options:
                        given.append(texts) or data(model, tokenizer, texts, *others, **options))  # fmt: skip
    start("out")
    parts = [{part_of(reply.request) for reply in texts} for texts in given]
    assert parts == [{"train"}, {"train"}, {"validation"}]


def test_so_many_replies_are_seen(start):
    """Guards --num-replies; and --max-tokens, which makes the rows shorter."""
    few = meta(start("few", "--num-replies", "16"))
    assert few["replies"] == 16 and meta(start("cut", "--num-replies", "16", "--max-tokens", "4"))["tokens"] < few["tokens"]


def test_the_built_in_writer_needs_no_file(call, tmp_path):
    """Guards training offline at once, by the default command: letters with tone, category and decision."""
    code, out, errors = call("--num-replies", "40")
    assert code == 0, errors
    assert "replies written: " in out and f"--model {tmp_path / 'out'}" in out
    assert list(Replier.load(tmp_path / "out").labels.values) == ["tone", "category", "decision"]
    assert meta(tmp_path / "out")["replies"] in range(25, 60)


def test_the_shipped_shape_is_small():
    """By hand: 3,584 tokens of 256; four layers of 256 · 256 + 2 · 256 · 128 + 256 · 256 weights of attention, its biases, and
    3 · 256 · 704 of feed-forward: 2 bytes each are less than 8 MB."""
    _, s = parse_arguments([])
    layer = 2 * 256 * 256 + 2 * 256 * 128 + 256 + 2 * 128 + 3 * 256 * 704 + 2 * 256
    assert (s.vocab_size, s.hidden_size, s.num_layers) == (3584, 256, 4)
    assert 2 * (3584 * 256 + 4 * layer + 256 + 50 * 256) < 8e6


# --- bases, and what is tuned of them


@pytest.mark.parametrize(("base", "flags"), [
    ("llama", ("--tune", "frozen", "--control", "token")), ("gpt2", ("--tune", "frozen", "--control", "embedding")),
    ("llama", ("--tune", "lora", "--control", "token", "--lora-rank", "2")),
    ("gpt2", ("--tune", "lora", "--control", "hidden")),
    ("llama", ("--tune", "full", "--control", "embedding")), ("gpt2", ("--tune", "full", "--control", "none")),
    ("llama", ("--tune", "frozen", "--control", "none", "--refinement")), ("gpt2", ("--tune", "frozen", "--own-head")),
    ("llama", ("--heads", "off")), ("gpt2", ("--heads", "separate", "--pooling", "first"))])  # fmt: skip
def test_a_pretrained_base(base, flags, start, pretrained, replies):
    """Guards every way to tune, with every control: the folder opens, writes, and holds no more than was trained."""
    before = (pretrained[base] / "model.safetensors").read_bytes()
    folder = start("out", "--base", pretrained[base], "--num-replies", "16", "--learning-rate", "0.01", *flags)
    names = {path.name for path in folder.iterdir()}
    tune = flags[1] if flags[0] == "--tune" else "lora"
    assert ("model.safetensors" in names, "adapter_model.safetensors" in names) == (tune == "full", tune == "lora")
    assert (read_settings(folder)["base"] == str(pretrained[base])) == (tune == "frozen")
    assert (meta(folder)["trained_parameters"] < meta(folder)["parameters"]) == (tune != "full" or "none" in flags)
    assert (pretrained[base] / "model.safetensors").read_bytes() == before
    one, = Replier.load(folder).write("the lamp is wrong", {"tone": "firm"}, max_new_tokens=4, seed=0)
    assert one.token_ids and bool(one.judged) == ("off" not in flags)


def test_chosen_layers_are_frozen(start, pretrained):
    """Guards --freeze, of a pretrained model and of our own: the layers named are as they began, others are not."""
    folder = start("out", "--base", pretrained["llama"], "--tune", "full", "--freeze", "layers.0", "--num-replies", "16")
    before, after = (load_file(place / "model.safetensors") for place in (pretrained["llama"], folder))
    same = [torch.equal(before[name], after[name]) for name in (f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1))]
    assert same == [True, False]
    with pytest.raises(InputError, match="--freeze layers.0-5: there are layers.0-0"):
        start("other", "--freeze", "layers.0-5")


# --- stopping and going on


@pytest.mark.parametrize("flags", [("--dropout", "0.3"), ("--control", "embedding", "--heads", "separate")])
def test_a_resumed_training_is_the_uninterrupted_one(start, monkeypatch, flags):
    """Guards bit for bit: the same losses and weights after stops within an epoch and at an evaluation, with labels and
    requests that are dropped and replies that are cut at random."""
    whole = start("whole", "--num-epochs", "2", *flags)
    for step in (2, 6):
        with monkeypatch.context() as patch:
            signal_at(patch, step)
            with pytest.raises(KeyboardInterrupt):
                start("stopped", "--num-epochs", "2", *flags) if step == 2 else start("stopped", "--resume")
    stopped = start("stopped", "--resume")
    assert rows(whole) == rows(stopped) and len(losses(whole)) > 6
    for name in ("model.safetensors", "control.safetensors"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()


@pytest.mark.slow
def test_a_resumed_fine_tuning_is_the_uninterrupted_one(start, monkeypatch, pretrained):
    """Guards the additions' state, which does not hold the base."""
    flags = ("--base", pretrained["llama"], "--lora-rank", "2", "--num-replies", "24")
    whole = start("whole", *flags)
    with monkeypatch.context() as patch:
        signal_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            start("stopped", *flags)
    assert rows(start("stopped", "--resume")) == rows(whole)


def test_ctrl_c_says_how_to_go_on(call, replies, tmp_path, monkeypatch):
    """Guards Ctrl-C: exit code 130, the interrupted step is among the saved ones, and the hint names the folder; a training
    there is not begun anew."""
    signal_at(monkeypatch, 2)
    code, _, errors = call("--text", replies)
    assert code == 130 and f"train_replies.py --output {tmp_path / 'out'} --resume" in errors
    assert torch.load(tmp_path / "out" / train_replies.WORK / "state.pt", weights_only=True)["progress"]["step"] == 2
    code, _, errors = call("--text", replies)
    assert code == 2 and "go on with --resume" in errors


# --- failures


def failures(tmp_path, *rows):
    path = tmp_path / "failures.jsonl"
    path.write_text("".join(json.dumps({"request": request, "asked": {"tone": tone}, "judged": {}, "text": "", "settings": {}})
                            + "\n" for request, tone in rows), "utf-8")
    return path


def test_it_goes_on_from_failures(start, trained, tmp_path, replies):
    """Guards learning from what was missed: candidates that hit are learned beside other replies, a new folder is saved, and
    the old one stays as it is; stopped and resumed it is the same."""
    path = failures(tmp_path, ("the lamp abcde is wrong", "kind"), ("the fee hgfed is wrong", "firm"))
    before = (trained / "model.safetensors").read_bytes()
    folder = start("better", "--failures", path, "--base", trained, "--text", replies)
    told = meta(folder)
    assert told["failures"]["candidates"] == 32 and 0 < told["failures"]["learned"] <= 8
    assert told["failures"]["learned"] < told["replies"] and told["settings"]["failures"] == "failures.jsonl"
    assert (trained / "model.safetensors").read_bytes() == before != (folder / "model.safetensors").read_bytes()
    assert losses(folder)[0] < 2, "it began anew"
    assert Replier.load(folder).write("the lamp abcde is wrong", {"tone": "kind"}, seed=0)[0].text


@pytest.mark.parametrize("tune", ["frozen", "lora", "full"])
def test_a_pretrained_model_goes_on_as_it_was_tuned(tune, start, pretrained):
    """Guards the ways to open a trained model again: it computes what the folder does, and trains what was trained."""
    folder = start("out", "--base", pretrained["llama"], "--tune", tune, "--num-replies", "16", "--learning-rate", "0.01")
    model, base = trained_model(folder, 0.0, None)
    loaded, ids = load_controlled(folder).model, torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(model.eval()(ids).logits, loaded(ids).logits, atol=1e-3)
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    own = {name for name in names if not name.startswith("base.")}
    assert own and (own == names) == (tune == "frozen") and (base.name is None) == (tune != "frozen")
    assert all("lora" in name for name in names - own) or tune == "full"


# --- bad input


@pytest.mark.parametrize("flags, words", [
    (("--text", "nowhere.csv"), "there is no file"), (("--tune", "lora"), "--tune is for a pretrained --base"),
    (("--vocab-size", "100", "--text", "REPLIES"), "--vocab-size"), (("--dropout", "1"), "--dropout"),
    (("--num-replies", "0"), "--num-replies"), (("--base", "nowhere/at/all", "--text", "REPLIES"), "no model"),
    (("--resume",), "holds no unfinished training"), (("--control", "prefix"), "--control"), (("--heads", "on"), "--heads"),
    (("--base", "x", "--tune", "frozen", "--control", "none", "--heads", "off"), "has nothing to learn"),
    (("--refinement", "--own-head"), "not allowed with"),
    (("--failures", "nowhere.jsonl", "--text", "REPLIES"), "there is no file"),
    (("--failures", "x", "--control", "token"), "leave --control out"), (("--max-tokens", "0"), "--max-tokens"),
    (("--base", "checkpoint_lstm", "--text", "REPLIES"), "is an LSTM"),
    (("--freeze", "heads", "--text", "REPLIES"), "--freeze heads"),
])  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(call, tmp_path, replies, flags, words):
    code, _, errors = call(*(replies if flag == "REPLIES" else flag for flag in flags))
    assert code == 2 and words in errors and errors.startswith("error: ") and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content, words", [
    ("", "needs the columns"), ("one,two\na,b\n", "it has one, two"), ("request,reply\n", "holds no replies"),
    ("request,reply,tone\na,b,firm\n", "none is for"),
])  # fmt: skip
def test_a_bad_file_is_one_line_and_leaves_nothing(call, tmp_path, content, words):
    (tmp_path / "bad.csv").write_text(content, "utf-8")
    code, _, errors = call("--text", tmp_path / "bad.csv")
    assert code == 2 and words in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_failures_of_a_model_without_control_or_labels_are_one_line(call, tmp_path, replies, trained):
    """Guards --failures: a base without control, a tone that the model does not know, and one that no candidate hits."""
    path = failures(tmp_path, ("the lamp is wrong", "rude"))
    for base, words in (("checkpoint", "no model with control"), (trained, "there is no tone 'rude': choose from firm, kind")):
        code, _, errors = call("--failures", path, "--base", base, "--text", replies)
        assert code == 2 and words in errors and errors.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_a_run_says_of_itself_names_no_folder_of_the_machine(start, monkeypatch, replies):
    """Guards meta.json, which a shipped model has beside it: absolute paths are cut to their last part."""
    monkeypatch.setattr("sys.argv", ["/home/me/train_replies.py", "--text", str(replies), "--output", "runs/out"])
    folder = start("out", "--num-replies", "16")
    assert str(replies.parent) not in (folder / "meta.json").read_text("utf-8")
    assert meta(folder)["command"] == "python train_replies.py --text replies.csv --output runs/out"


def test_a_loss_that_is_not_finite_ends_the_training(call, replies, tmp_path, monkeypatch):
    """Guards divergence: one line with what to do, and nothing is left."""
    monkeypatch.setattr("training.replies.JointLoss.__call__",
                        lambda loss, batch: (next(loss.model.parameters()).sum() * float("nan"), 1))
    code, _, errors = call("--text", replies)
    assert code == 2 and "try a lower --learning-rate" in errors
    assert not (tmp_path / "out").exists()


def test_a_resumed_training_whose_replies_are_gone_is_one_line(call, replies, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_at(patch, 2)
        call("--text", replies)
    (tmp_path / "out" / train_replies.WORK / train_replies.ROWS).unlink()
    code, _, errors = call("--resume")
    assert code == 2 and "cannot be read" in errors and errors.count("\n") == 1
    assert reply_data.REPEATS > 1
