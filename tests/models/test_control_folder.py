"""The folder of a controlled model: written and read back for each kind of base, and what is missing or broken in it."""

from support.errors import InputError

import json
import shutil

from common import decode
from generator import GeneratorTransformer
from models.control import KINDS, REPLY_TEMPLATE, REPLY_TOKENS, Controlled, Labels, asked_ids, reply_end
from models.control_folder import SETTINGS, WEIGHTS, load_controlled, save_control, with_control
from task1_greedy import greedy
from tests.helpers import random_model, shape
from training.finetuning import FineTuned, open_base

import pytest
import torch
from safetensors.torch import load_file, save_file

LABELS = Labels({"tone": ("firm", "kind"), "category": ("дороги", "taxes")})


def randomised(model):
    """A model whose control is that of no fresh one."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith("base.") or "lora_B" in name:
                weight.normal_(std=0.3)
    return model.eval()


def same_logits(model, other):
    ids = torch.tensor([model.prompt_ids([5, 6, 7, 8], {"tone": "kind"}), model.prompt_ids([9, 6, 7, 3], {})])
    labels = torch.stack([LABELS.ids({"tone": "kind"}), LABELS.ids({})])
    with torch.no_grad():
        lengths = torch.tensor([4, 3])
        pairs = [(model(ids, labels=labels).logits, other(ids, labels=labels).logits),
                 (model.judge(ids, lengths, "tone"), other.judge(ids, lengths, "tone"))]
    return all(torch.allclose(one, another, atol=1e-3) for one, another in pairs)


@pytest.fixture(scope="module")
def own(tmp_path_factory, bpe):
    """Our own decoder with its control, as a folder, and the model itself."""
    from tokenizers import Tokenizer

    folder, tokenizer = tmp_path_factory.mktemp("own") / "replies", Tokenizer.from_str(bpe.to_str())
    tokenizer.add_special_tokens(list(REPLY_TOKENS))
    torch.manual_seed(0)
    base = GeneratorTransformer(shape(vocab_size=tokenizer.get_vocab_size(), eos_token_id=tokenizer.token_to_id("<end>")),
                                tokenizer)
    model = randomised(Controlled(base, LABELS, "token"))
    base.save_checkpoint(folder, torch.float32, REPLY_TEMPLATE)
    save_control(model, folder)
    return folder, model


def test_our_own_decoder(own):
    """Guards the shipped kind of folder: the same logits and verdicts, the end of a reply, the labels, a text."""
    folder, model = own
    loaded = load_controlled(folder)
    assert same_logits(model, loaded.model) and loaded.model.labels == LABELS and not loaded.model.training
    assert reply_end(loaded.tokenizer) == loaded.tokenizer.convert_tokens_to_ids("<end>") in loaded.eos_ids
    control = sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("base."))
    assert loaded.identity["control"] == "token" and loaded.identity["parameters"] == control + sum(
        weight.numel() for weight in model.base.parameters())
    ids = torch.tensor([loaded.model.prompt_ids(asked_ids(loaded.tokenizer, "a hedgehog"), {"tone": "firm"})])
    assert len(list(decode(loaded.model, ids, greedy, {}, loaded.eos_ids, 5))) in range(1, 6)
    assert next(load_controlled(folder, dtype="bfloat16").model.heads.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["llama", "gpt2"])
@pytest.mark.parametrize("tune", ["frozen", "lora", "full"])
def test_a_pretrained_base(base, kind, tune, model_folder, tmp_path):
    """Guards the three ways to tune: a frozen base is named, low-rank additions are an adapter, else it is a whole model."""
    folder, pretrained = tmp_path / "replies", tmp_path / "base"
    shutil.copytree(model_folder, pretrained)
    random_model(0, vocab=259, kind=base).save_pretrained(pretrained)
    network, tokenizer = open_base(str(pretrained), torch.float32)
    fine = FineTuned(network, str(pretrained), tokenizer, 2 if tune == "lora" else None)
    model = randomised(Controlled(fine.base, LABELS, kind, refinement=True, own_head=kind == "hidden"))
    folder.mkdir()
    if tune != "frozen":
        fine.save_checkpoint(folder, torch.float32)
    save_control(model, folder, base=str(pretrained) if tune == "frozen" else None)
    assert (folder / "model.safetensors").exists() == (tune == "full")
    loaded = load_controlled(folder)
    assert same_logits(model, loaded.model) and reply_end(tokenizer) in loaded.eos_ids
    moved = pretrained.rename(tmp_path / "moved")
    if tune != "full":
        assert same_logits(model, load_controlled(folder, base=str(moved)).model)
        with pytest.raises(InputError):
            load_controlled(folder)


def edit(folder, **changes):
    content = json.loads((folder / SETTINGS).read_text("utf-8"))
    (folder / SETTINGS).write_text(json.dumps(content | changes), "utf-8")


def edit_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize(("how", "says"), [
    (lambda folder: (folder / SETTINGS).unlink(), "no model with control"),
    (lambda folder: shutil.rmtree(folder), "there is no folder"),
    (lambda folder: (folder / SETTINGS).write_text("{"), "broken"),
    (lambda folder: (folder / SETTINGS).write_text("{}"), "describes no control"),
    (lambda folder: edit(folder, kind="prefix"), "choose from none, token"),
    (lambda folder: edit(folder, labels=["tone"]), "describes no control"),
    (lambda folder: edit(folder, labels={"tone": 3}), "describes no control"),
    (lambda folder: edit(folder, labels={"tone": ["firm"]}), "does not fit"),
    (lambda folder: edit(folder, base="/nowhere"), "no model folder at /nowhere"),
    (lambda folder: (folder / WEIGHTS).unlink(), f"holds no {WEIGHTS}"),
    (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "cut off or damaged"),
    (lambda folder: edit_weights(folder, lambda weights: weights.pop("table.weight")), "table.weight is None"),
    (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors")])
def test_what_is_missing_or_broken_is_one_line(how, says, own, tmp_path):
    folder = shutil.copytree(own[0], tmp_path / "replies")
    how(folder)
    with pytest.raises(InputError, match=says) as error:
        load_controlled(folder)
    assert "\n" not in str(error.value)


def test_a_base_to_train_on_keeps_its_gradients(own):
    """Guards learning from failures: a base that is opened unpacked gets the control that was trained, and goes on."""
    folder, model = own
    again = with_control(GeneratorTransformer.load_from_checkpoint(folder), folder)
    assert same_logits(model, again)
    again(torch.tensor([[5, 6, 7]]), targets=torch.tensor([[6, 7, 8]])).loss.backward()
    assert again.base.model.embed_tokens.weight.grad.any()
