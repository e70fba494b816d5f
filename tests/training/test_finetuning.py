"""Fine-tuning a pretrained model: the loss, what is trained and what is not, and the adapter's folder."""

from support.errors import InputError

import json
import re
from functools import partial

from common import prompt_ids
from data.messages import NextTokenDataset, collate_batch, ends_of, learn_tokenizer
from models.loading import load_model, open_tokenizer
from models.transformer import Transformer
from tests.helpers import random_model, shape
from training.finetuning import FineTuned, adamw, freeze, open_pretrained
from training.messages import message_loss
from training.trainer import Trainer, learning_rate

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

pytestmark = pytest.mark.usefixtures("signals", "no_curve")
STEPS, RATE = 6, 0.01


def batches():
    """Batches of messages of different lengths, of a vocabulary of 300."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 250, (int(length),), generator=generator).tolist()
             for length in torch.randint(1, 9, (4 * STEPS,), generator=generator)]
    dataset = NextTokenDataset(texts, 2, 2)
    return [collate_batch([dataset[i] for i in range(4 * step, 4 * step + 4)]) for step in range(STEPS)]


def tuned(rank=2, kind="llama"):
    torch.manual_seed(0)
    model = random_model(1, vocab=259, kind=kind)
    torch.manual_seed(0)
    return FineTuned(model, "some/base", learn_tokenizer(["a"], 259), rank)


def train(model, tmp_path):
    """The loss of each step."""
    trainer = Trainer(model, [adamw(model)], partial(message_loss, model), lambda step: iter(batches()[step:]), STEPS, RATE,
                      tmp_path / "state", Accelerator(cpu=True))  # fmt: skip

    class Rows:
        rows = []

        def add(self, row):
            self.rows.append(row)

        draw, words = (lambda self: None), lambda self, row: ""
    trainer.run(lambda: {"validation_loss": 1.0}, lambda: None, Rows(), STEPS, STEPS)
    return [row["loss"] for row in Rows.rows if "loss" in row], trainer


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_training_begins_with_the_model_as_it_is(kind):
    """Oracle: transformers' own logits. Guards B = 0 of Hu et al., section 4.1, and pads, which no loss holds."""
    input_ids, targets, lengths = batches()[0]
    with torch.no_grad():
        logits = random_model(1, vocab=259, kind=kind)(input_ids).logits
        expected = sum(F.cross_entropy(logits[row, :length], targets[row, :length], reduction="sum")
                       for row, length in enumerate(lengths))
        loss, counted = message_loss(tuned(kind=kind).eval(), (input_ids, targets, lengths))
    assert counted == lengths.sum() and loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [2, None])
def test_the_losses_are_those_of_transformers_trainer(rank, tmp_path):
    """Oracle: transformers.Trainer on the same batches, with the same optimizer and learning rates; its labels are the ids
    themselves, -100 at pads, which it shifts by one. By hand: BOS 5 6 EOS is read as BOS 5 6 with the targets 5 6 EOS here, and
    as BOS 5 6 EOS with the labels -100 5 6 EOS there."""
    from transformers import Trainer as Reference
    from transformers import TrainingArguments

    def whole(batch):
        input_ids, targets, lengths = batch
        last = targets.gather(1, lengths[:, None] - 1)
        ids = torch.cat([input_ids, torch.zeros_like(last)], dim=1).scatter(1, lengths[:, None], last)
        labels = torch.cat([torch.full_like(last, -100), targets], dim=1)
        return {"input_ids": ids, "labels": labels, "attention_mask": (labels != -100).long().index_fill(1, torch.tensor(0), 1)}

    class Given(Reference):
        def get_train_dataloader(self):
            return [whole(batch) for batch in batches()]

    model = tuned(rank)
    reference = model.model
    optimizer = adamw(model)
    optimizer.param_groups[0]["lr"] = RATE
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(1.0, step, STEPS))
    arguments = TrainingArguments(tmp_path, max_steps=STEPS, logging_steps=1, max_grad_norm=1.0, use_cpu=True, report_to=[],
                                  save_strategy="no", disable_tqdm=True, remove_unused_columns=False)  # fmt: skip
    other = Given(reference, arguments, optimizers=(optimizer, schedule), train_dataset=[0])
    other.train()
    expected = [row["loss"] for row in other.state.log_history if "loss" in row]
    found, _ = train(tuned(rank), tmp_path)
    assert found == pytest.approx(expected, abs=2e-4)
    assert found[-1] < found[0]


def test_the_base_is_untouched_and_the_state_holds_the_additions_alone(tmp_path):
    """Guards frozen weights: equal to the last bit after training, and left out of the state, which would be the size of the
    model at every save. A state of the additions is loaded; of another rank it is refused."""
    model = tuned()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    _, trainer = train(model, tmp_path)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) != weight.requires_grad, name
    trainer.save()
    saved = torch.load(tmp_path / "state", weights_only=True)["model"]
    assert saved and all("lora_" in name for name in saved)
    again = tuned()
    fresh = Trainer(again, [adamw(again)], None, None, STEPS, RATE, tmp_path / "state", Accelerator(cpu=True))
    fresh.load()
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), model.parameters(), strict=True))
    with pytest.raises(InputError, match="is it another training's"):
        other = tuned(rank=3)
        Trainer(other, [adamw(other)], None, None, STEPS, RATE, tmp_path / "state", Accelerator(cpu=True)).load()


def test_the_adapter_is_one_of_pefts(tmp_path, monkeypatch):
    """Oracle: PEFT reads it: the logits of the model that was trained. Bug: PEFT asked the hub about the base at every save,
    and a hub that does not answer could hold a training up."""
    from peft import PeftModel
    from peft.utils import other, save_and_load

    def asked(*_):
        raise AssertionError("the hub was asked")
    for module in (other, save_and_load):
        monkeypatch.setattr(module, "check_file_exists_on_hf_hub", asked)

    model = tuned()
    train(model, tmp_path)
    model.eval().save_checkpoint(tmp_path, torch.float32)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"
    ids = batches()[0][0]
    with torch.no_grad():
        opened = PeftModel.from_pretrained(random_model(1, vocab=259, kind="llama"), tmp_path).eval()
        assert torch.allclose(opened(ids).logits, model(ids).logits, atol=1e-5)
    assert not list(tmp_path.glob(".writing*"))


def test_its_prompts_are_plain_text(model_folder, tmp_path):
    """Guards the tokenizer beside the additions: a prompt of any script is read as a message is in training, <|endoftext|>, a
    blank, the text, though its base has a chat template; and what ends a message ends a text."""
    open_pretrained(str(model_folder), 2, torch.float32).save_checkpoint(tmp_path, torch.float32)
    loaded, base = load_model(str(model_folder), adapter=tmp_path), open_tokenizer(model_folder)
    start = base.convert_tokens_to_ids("<|endoftext|>")
    assert prompt_ids(loaded.tokenizer, "i am").tolist() == [[start, *base.encode(" i am", add_special_tokens=False)]]
    assert ends_of(loaded.tokenizer) == (start, start) and start in loaded.eos_ids


def test_with_all_weights_trained_it_is_a_model(model_folder, tmp_path):
    """Guards --full: a folder that any script opens, in the dtype asked for, and that ends with what it has learned to end
    with."""
    model = open_pretrained(str(model_folder), None, torch.bfloat16)
    model.save_checkpoint(tmp_path, torch.bfloat16)
    loaded = load_model(str(tmp_path), dtype="bfloat16")
    assert ends_of(loaded.tokenizer)[1] in loaded.eos_ids
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert next(model.parameters()).dtype == torch.float32


def trained(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("model", [
    lambda: Transformer(shape(num_hidden_layers=4)), lambda: random_model(0, layers=4, kind="gpt2"),
    lambda: FineTuned(random_model(0, layers=4, kind="llama"), "", None, 2)])
def test_chosen_layers_are_frozen(model):
    """Guards --freeze: the layers named, low-rank additions within them too, and nothing else; once frozen is not counted."""
    model = model()
    before = trained(model)
    count = freeze(model, "layers.0-1, layers.3")
    gone = before - trained(model)
    assert {re.search(r"(?:layers|h)\.(\d)", name)[1] for name in gone} == {"0", "1", "3"}
    assert {name for name in before if ".2." in name} <= trained(model)
    weights = dict(model.named_parameters())
    assert count == sum(weights[name].numel() for name in gone) > 0 and freeze(model, "layers.0") == 0


@pytest.mark.parametrize("parts", ["layers.0-4", "layers.4", "layers.2-1", "heads", "", "layers.-1"])
def test_layers_that_are_not_there_are_one_line_that_lists_them(parts):
    with pytest.raises(InputError, match="there are layers.0-3") as error:
        freeze(random_model(0, layers=4), parts)
    assert "\n" not in str(error.value)
