"""A sparsity target in the Trainer of `transformers`, on a small BERT in training."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainerCallback, TrainingArguments

import sparseout
from sparseout import Sparseout, target_callback

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 32,
    "hidden_act": "relu",
}
LAYERS = tuple(f"bert.encoder.layer.{i}.intermediate.intermediate_act_fn.sparseout" for i in range(2))
TARGETS = dict(zip(LAYERS, (0.63, 0.7), strict=True))


class Course(TrainerCallback):
    """Records the `q` of the controlled layers before each step, by its number, and all logs."""

    def __init__(self):
        self.q, self.logs = {}, []

    def on_step_begin(self, args, state, control, model, **_):
        self.q[state.global_step] = tuple(model.get_submodule(layer).q for layer in LAYERS)

    def on_log(self, args, state, control, logs, **_):
        self.logs.append(dict(logs))


class Evaluating(Trainer):
    """Keeps the evaluation loader from drawing from the generator of training."""

    def evaluate(self, *args, **settings):
        with torch.random.fork_rng([]):
            return super().evaluate(*args, **settings)


def trainer(folder, *callbacks, steps=24, **settings):
    torch.manual_seed(0)
    model = sparseout.swap_dropout(BertForMaskedLM(BertConfig(**SIZE)), q=2.0).model
    model = sparseout.insert_after(model, nn.ReLU, q=2.0, p=0.7).model
    tokens = torch.randint(3, 32, (40, 8), generator=torch.Generator().manual_seed(1))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **{"learning_rate": 1e-2, "save_strategy": "no", "logging_strategy": "no", **settings},
    )
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    return Evaluating(model, arguments, train_dataset=rows, eval_dataset=rows[:8], callbacks=list(callbacks))


def trained(folder, *, resume=None, callback=None, **settings):
    course = Course()
    callback = callback or target_callback(TARGETS, every=2)
    run = trainer(folder, callback, course, **settings)
    run.train(resume_from_checkpoint=resume)
    return run, course


def weights(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_targets_are_reached(tmp_path):
    callback = target_callback(TARGETS, every=2, warmup=100)
    run, course = trained(tmp_path, callback=callback, steps=400, learning_rate=3e-3, lr_scheduler_type="constant")
    assert [entry.measured for entry in callback.target.report().layers] == pytest.approx(list(TARGETS.values()), abs=0.04)
    assert callback.target.steps == 400
    assert course.q[100] == (2.0, 2.0)
    assert len(set(course.q[399])) == 2
    others = [module.q for name, module in run.model.named_modules() if isinstance(module, Sparseout) and name not in LAYERS]
    assert set(others) == {2.0}


@pytest.mark.parametrize("restored_by_the_trainer", [False, True])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(restored_by_the_trainer, tmp_path):
    loader = [{"input_ids": torch.arange(32).reshape(4, 8)}]  # which JSON cannot hold

    def run(folder, **settings):
        callback = target_callback(TARGETS, every=2, loader=loader)
        settings = {"restore_callback_states_from_checkpoint": restored_by_the_trainer, **settings}
        return trained(folder, callback=callback, save_strategy="steps", save_steps=7, **settings)

    whole, course = run(tmp_path / "whole")
    saved = tmp_path / "whole" / "checkpoint-7"
    resumed, again = run(tmp_path / "resumed", resume=str(saved))
    assert list(again.q) == list(range(7, 24))
    assert again.q == {step: q for step, q in course.q.items() if step >= 7}
    assert len(set(again.q.values())) > 2
    assert same(weights(whole), weights(resumed))
    state = json.loads((saved / "trainer_state.json").read_text())["stateful_callbacks"]["TargetCallback"]
    assert state["target"]["steps"] == 7
    assert any(state["target"]["bias"].values())
    first, second = (
        json.loads((tmp_path / name / "checkpoint-24" / "trainer_state.json").read_text())["stateful_callbacks"]
        for name in ("whole", "resumed")
    )
    assert first["TargetCallback"] == second["TargetCallback"]


def test_a_resumed_run_with_another_target_warns_and_uses_it(tmp_path):
    trained(tmp_path, steps=4, save_strategy="steps", save_steps=2)
    callback = target_callback(TARGETS | {LAYERS[0]: 0.5}, every=2)
    words = rf"continues with its own target=\{{'{LAYERS[0]}': 0.5\}} \(saved: \{{'{LAYERS[0]}': 0.63\}}\)"
    with pytest.warns(UserWarning, match=words):
        trained(tmp_path, callback=callback, resume=str(tmp_path / "checkpoint-2"), steps=4, save_strategy="steps", save_steps=2)
    assert callback.target.target == TARGETS | {LAYERS[0]: 0.5}
    assert callback.target.steps == 4


def test_training_can_restart_after_an_interrupt(tmp_path):
    class Interrupted(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 2:
                raise KeyboardInterrupt

    callback = target_callback(TARGETS)
    run = trainer(tmp_path, callback, Interrupted(), steps=4)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    first = callback.target
    run.remove_callback(Interrupted)
    run.train()
    assert callback.target is not first
    assert callback.target.steps == 4
    assert not any(module._forward_pre_hooks for module in run.model.modules())


def test_an_evaluation_does_not_affect_training(tmp_path):
    plain, course = trained(tmp_path)
    evaluated, again = trained(tmp_path, eval_strategy="steps", eval_steps=1, eval_on_start=True)
    assert len(evaluated.state.log_history) > 20
    assert again.q == course.q
    assert same(weights(plain), weights(evaluated))


def test_accumulated_batches_count_as_one_step(tmp_path):
    callback = target_callback(TARGETS)
    seen = []
    run = trainer(tmp_path, callback, steps=3, gradient_accumulation_steps=4)
    take = sparseout.Probe.findings

    def watched(probe):
        findings = take(probe)
        seen.append({findings.tallies[layer, "train", None].calls for layer in LAYERS})
        return findings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparseout.Probe, "findings", watched)
        run.train()
    assert callback.target.steps == 3
    assert seen == [{4}]


def test_training_logs_have_sparsity_and_q(tmp_path):
    run, course = trained(tmp_path, steps=4, logging_strategy="steps", logging_steps=2, eval_strategy="steps", eval_steps=2)
    names = {f"{kind}/{layer}" for kind in ("sparsity", "q") for layer in LAYERS}
    logs = [set(log) & names for log in course.logs if "loss" in log]
    assert logs == [names, names]
    assert not any(set(log) & names for log in course.logs if "loss" not in log)
    (last,) = (log for log in run.state.log_history if log["step"] == 4 and "loss" in log)
    assert tuple(last[f"q/{layer}"] for layer in LAYERS) == tuple(run.model.get_submodule(layer).q for layer in LAYERS)
    assert all(0 < last[f"sparsity/{layer}"] < 1 for layer in LAYERS)


def test_training_logs_have_the_loss_before_the_ramp(tmp_path):
    callback = target_callback(TARGETS, every=2, warmup=4, ramp=4)
    _, course = trained(tmp_path, callback=callback, steps=8, logging_strategy="steps", logging_steps=2)
    logs = [log for log in course.logs if "loss" in log]
    before = [log["loss_before_ramp"] for log in logs]
    assert before[0] == logs[0]["loss"]
    assert before[1] == before[2] == before[3] == pytest.approx((logs[0]["loss"] + logs[1]["loss"]) / 2)
    assert before[3] == callback.target.report().loss.before
    assert "before the ramp" in repr(callback.target.report())
    _, without = trained(tmp_path, steps=2, logging_strategy="steps", logging_steps=1)
    assert not any("loss_before_ramp" in log for log in without.logs)


def test_a_layer_that_is_never_called_is_not_logged(tmp_path):
    _, course = trained(tmp_path, callback=target_callback(0.4), steps=1, logging_strategy="steps", logging_steps=1)
    unused = "bert.encoder.layer.0.attention.self.dropout"
    assert f"q/{LAYERS[0]}" in course.logs[0]
    assert f"q/{unused}" not in course.logs[0]


def test_a_compiled_model_is_measured(tmp_path):
    _, course = trained(tmp_path, steps=4, torch_compile=True, torch_compile_backend="eager")
    assert all(q != 2.0 for q in course.q[3])


def test_the_model_keeps_no_hooks_and_can_train_again(tmp_path):
    callback = target_callback(TARGETS, every=1)
    run, course = trained(tmp_path, callback=callback, steps=4)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in run.model.modules())
    first, q = callback.target, tuple(run.model.get_submodule(layer).q for layer in LAYERS)
    run.train()
    assert callback.target is not first
    assert callback.target.steps == 4
    assert course.q[0] == q != (2.0, 2.0)


def test_a_run_without_a_target_can_resume_with_one(tmp_path):
    run = trainer(tmp_path, steps=4, save_strategy="steps", save_steps=2)
    run.train()
    callback = target_callback(TARGETS)
    trained(tmp_path, callback=callback, resume=str(tmp_path / "checkpoint-2"), steps=6, save_strategy="steps", save_steps=2)
    assert callback.target.steps == 4


def test_invalid_arguments_raise_one_line(tmp_path):
    with pytest.raises(TypeError, match="unexpected keyword argument 'evry'"):
        target_callback(0.5, evry=2)
    with pytest.raises(ValueError, match=r"a sparsity in \(0, 1\), got 2"):
        trainer(tmp_path, target_callback(2)).train()
    with pytest.raises(ValueError, match="callbacks must hold one target_callback, got 2: pass it a mapping"):
        trainer(tmp_path, target_callback(0.4), target_callback(0.5)).train()


def test_without_transformers_the_error_names_the_extra():
    program = "import sys; sys.modules['transformers'] = None; import sparseout; sparseout.target_callback(0.5)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ImportError: target_callback needs transformers: pip install 'sparseout[probe]'"
