"""Hugging Face models are changed, trained by `Trainer`, saved, loaded and changed again."""

import json

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.activations import SiLUActivation

import sparseout
from sparseout import Probe, Sparseout, metrics, schedule, surgery

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SMALL, "vocab_size": 32, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE = {**SMALL, "image_size": 8, "patch_size": 4, "hidden_dropout_prob": 0.1}
MODELS = {
    "bert": (BertForSequenceClassification, BertConfig(**TEXT)),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2),
    ),
    "llama": (LlamaForCausalLM, LlamaConfig(**TEXT)),
    "vit": (ViTForImageClassification, ViTConfig(**IMAGE)),
}


def build(name):
    torch.manual_seed(0)
    kind, config = MODELS[name]
    return kind(config)


def change(model, q=1.5):
    """Swap the dropout of a model; in Llama, which has none, insert layers after its activation class."""
    if isinstance(model, LlamaForCausalLM):
        return sparseout.insert_after(model, SiLUActivation, q=q, p=0.3)
    return sparseout.swap_dropout(model, q, p=0.3)


def examples(model, count=8):
    generator = torch.Generator().manual_seed(1)
    if isinstance(model, ViTForImageClassification):
        images, labels = torch.randn(count, 3, 8, 8, generator=generator), torch.randint(2, (count,), generator=generator)
        return [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    tokens = torch.randint(3, 32, (count, 8), generator=generator)
    classes = isinstance(model, BertForSequenceClassification)
    return [{"input_ids": row, "labels": row[0] % 2 if classes else row} for row in tokens]


def batch(model):
    rows = examples(model)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def train(model, folder, **settings):
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=3,
        **settings,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=examples(model))
    trainer.train()
    return trainer


def logits(model):
    with torch.no_grad():
        return model.eval()(**batch(model)).logits


@pytest.mark.parametrize("name", MODELS)
def test_a_changed_model_is_trained_saved_and_loaded(name, tmp_path):
    model = build(name)
    before = logits(model)
    report = change(model)
    assert report.changes
    assert torch.equal(logits(report.model), before)
    assert model.state_dict().keys() == report.model.state_dict().keys()
    trainer = train(report.model, tmp_path)
    after = logits(report.model)
    assert after.isfinite().all()
    assert not torch.allclose(after, before)
    trainer.save_model(tmp_path / "saved")
    (tmp_path / "swap.json").write_text(json.dumps(report.to_dict()))
    loaded, info = MODELS[name][0].from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info.values())
    again = surgery.apply_report(loaded, json.loads((tmp_path / "swap.json").read_text()), inplace=True)
    assert repr(again.model) == repr(report.model)
    assert torch.equal(logits(again.model), after)
    assert torch.equal(logits(sparseout.restore(again.model)), after)
    assert repr(again.model) == repr(model)


@pytest.mark.parametrize("name", MODELS)
def test_training_depends_on_q_and_is_reproducible(name, tmp_path):
    trained = []
    for q in (1.0, 1.0, 3.0):
        model = change(build(name), q).model
        train(model, tmp_path)
        trained.append(logits(model))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_nothing(name, use_reentrant):
    results, calls = [], []
    for checkpointing in (False, True):
        model = change(build(name)).model.train()
        for layer in (module for module in model.modules() if isinstance(module, Sparseout)):
            layer.register_forward_hook(lambda *_, checkpointing=checkpointing: calls.append(checkpointing))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        torch.manual_seed(5)
        loss = model(**batch(model), **({} if name in ("bert", "vit") else {"use_cache": False})).loss
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)])
    assert calls.count(True) > calls.count(False) > 0
    assert len(results[0]) > 10
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize(("name", "attention"), [("bert", "self"), ("gpt2", "attn")])
def test_the_check_finds_attention_dropout_that_no_layer_can_reach(name, attention):
    model = change(build(name)).model
    checked = sparseout.check_swap(model, batch(model))
    assert checked.never_ran
    assert all(attention in layer.split(".") for layer in checked.never_ran)
    assert {layer.rpartition(".")[0] for layer in checked.never_ran} == {call.name for call in checked.dropout}
    assert {call.function for call in checked.dropout} == {"scaled_dot_product_attention"}
    assert checked.ran


@pytest.mark.parametrize("name", ["llama", "vit"])
def test_the_check_finds_nothing_where_every_layer_runs(name):
    model = change(build(name)).model
    assert sparseout.check_swap(model, batch(model)).ok


def test_eager_attention_of_bert_is_found_too():
    kind, config = MODELS["bert"]
    model = change(kind._from_config(config, attn_implementation="eager")).model
    assert {call.function for call in sparseout.check_swap(model, batch(model)).dropout} == {"dropout"}


def test_a_schedule_runs_in_the_trainer(tmp_path):
    class Step(TrainerCallback):
        def __init__(self, schedule):
            self.schedule = schedule

        def on_step_end(self, *_, **__):
            self.schedule.step()

    model = change(build("bert"), q=2.0).model
    linear = schedule.Linear(model, steps=4, q=1.0)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(tmp_path), max_steps=4, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True),
        train_dataset=examples(model),
        callbacks=[Step(linear)],
    )
    trainer.train()
    assert {module.q for module in model.modules() if isinstance(module, Sparseout)} == {1.0}


def test_a_swapped_model_generates():
    model = change(build("gpt2")).model.eval()
    tokens = model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False)
    assert torch.equal(tokens, build("gpt2").eval().generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False))
    assert isinstance(model.transformer.drop, Sparseout)
    assert not isinstance(model.transformer.drop, nn.Dropout)


TOKENS = torch.arange(16) < torch.tensor([16, 1, 3, 9, 2, 4, 1, 5, 2, 4])[:, None]  # 47 tokens and 113 padded positions
CAUSAL = torch.ones(16, 16, dtype=torch.bool).tril()


def added(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("bert", TOKENS.long()),
        ("bert", added(TOKENS[:, None, None]).expand(10, 1, 16, 16)),
        ("gpt2", TOKENS.flip(1)),
        ("gpt2", added(TOKENS.flip(1)[:, None, None] & CAUSAL)),
        ("llama", TOKENS.flip(1).long()),
        ("llama", TOKENS.flip(1)[:, None, None] & CAUSAL),
    ],
)
def test_a_probe_leaves_padding_out(name, mask):
    model, values = build(name).eval(), []
    layer = next(name for name, module in model.named_modules() if name.endswith((".intermediate_act_fn", ".act", ".act_fn")))
    model.get_submodule(layer).register_forward_hook(lambda module, args, value: values.append(value))
    with torch.no_grad(), Probe(model, layer) as probe:
        model(input_ids=torch.randint(3, 32, (10, 16)), attention_mask=mask)
    kept = values[0][TOKENS if name == "bert" else TOKENS.flip(1)]
    record = probe.summary()[layer]
    assert (record.vectors, record.padding) == (47, 113)
    assert record.hoyer == pytest.approx(metrics.hoyer(kept.double()).mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    "masks", [("attention_mask", "decoder_attention_mask"), ("attention_mask",), ("decoder_attention_mask",)]
)
def test_a_probe_knows_whose_mask_it_is_in_an_encoder_and_decoder(masks):
    sizes = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()
    given = {"attention_mask": TOKENS, "decoder_attention_mask": TOKENS.flip(0).roll(1, 0)[:, :16]}
    given["decoder_attention_mask"][0] = True
    ids = torch.randint(3, 32, (10, 16))
    with torch.no_grad(), Probe(model, "*.act") as probe:
        model(input_ids=ids, decoder_input_ids=ids, **{name: given[name] for name in masks})
    for record, name in zip(probe.summary().layers, given, strict=True):
        tokens = int(given[name].sum()) if name in masks else 160
        assert (record.vectors, record.padding) == (tokens, 160 - tokens)
