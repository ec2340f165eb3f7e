"""plan, optimize, report, revert on small models of every known kind."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import kernel_pytorch
from kernel_pytorch.optimize.replacement import installed
from tests.python.optimize import small_models
from tests.python.optimize.small_models import outputs, same

NAMES = list(small_models.models())


def _model(name):
    model, inputs, ops = small_models.models()[name]
    return model.eval(), inputs, ops


def _state(model):
    """Everything optimize must not change: attributes of every module, and the weights."""
    attributes = {
        name: {k: id(v) for k, v in m.__dict__.items() if not k.startswith("_")}
        for name, m in model.named_modules()
    }
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    hooks = {name: len(m._forward_hooks) for name, m in model.named_modules()}
    return attributes, weights, hooks


def _same_state(a, b):
    return a[0] == b[0] and a[2] == b[2] and all(torch.equal(v, b[1][k]) for k, v in a[1].items())


@pytest.mark.parametrize("precision", ["keep", "bf16", "int8", "int4", "fp8"])
@pytest.mark.parametrize("name", NAMES)
def test_within_bounds_and_reverts_bitwise(name, precision, all_win):
    model, inputs, ops = _model(name)
    before, state = outputs(model, inputs), _state(model)
    # Errors of such narrow random layers are larger than those of real models.
    bound = {"int8": 0.2, "int4": 0.6, "fp8": 0.2}.get(precision)
    assert kernel_pytorch.optimize(model, inputs, precision=precision, max_error=bound) is model
    report = kernel_pytorch.report(model)
    used = {op for row in report.rows if row.kept for op in row.ops}
    assert ops <= used, str(report)
    after = outputs(model, inputs)
    assert [t.dtype for t in after] == [t.dtype for t in before]
    assert report.model.difference.error <= report.max_error
    assert not same(before, after) or precision == "keep"
    again = outputs(model, inputs)
    assert same(after, again)
    assert kernel_pytorch.revert(model) is model
    assert _same_state(state, _state(model))
    assert same(before, outputs(model, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_plan_touches_nothing(name, all_win):
    model, inputs, _ = _model(name)
    before, state = outputs(model, inputs), _state(model)
    plan = kernel_pytorch.plan(model, inputs)
    assert _same_state(state, _state(model))
    assert same(before, outputs(model, inputs))
    assert plan.planned_only and plan.model is None
    timed = [row for row in plan.rows if row.timing is not None]
    assert timed and all(row.difference.error <= plan.max_error for row in timed)
    assert json.loads(plan.to_json())["replacements"]
    text = str(plan)
    for row in plan.rows:
        assert row.kind in text and row.modules[0] in text and all(op in text for op in row.ops)
    for item in plan.left:
        assert item.modules[0] in text


def test_what_loses_is_left(none_win):
    model, inputs, _ = _model("bert")
    before = outputs(model, inputs)
    kernel_pytorch.optimize(model, inputs, precision="bf16")
    report = kernel_pytorch.report(model)
    assert report.kept == 0 and report.model is None
    assert all("slower" in row.reason for row in report.rows)
    assert not any(installed(m) for m in model.modules())
    assert same(before, outputs(model, inputs))


def test_what_is_too_inexact_is_left(all_win):
    model, inputs, _ = _model("bert")
    kernel_pytorch.optimize(model, inputs, precision="bf16", max_error=1e-6)
    report = kernel_pytorch.report(model)
    blocks = [row for row in report.rows if row.kind == "encoder block"]
    assert blocks and not blocks[0].kept and "error" in blocks[0].reason
    assert report.model is None or report.model.difference.error <= 1e-6


def test_other_instances_and_globals_are_untouched(all_win):
    model, inputs, _ = _model("bert")
    other = copy.deepcopy(model)
    shared_config = model.config
    before = outputs(other, inputs)
    classes = {type(m): dict(vars(type(m))) for m in model.modules()}
    defaults = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    implementation = shared_config._attn_implementation
    kernel_pytorch.optimize(model, inputs, precision="bf16")
    assert kernel_pytorch.report(model).kept
    assert all(dict(vars(c)) == attributes for c, attributes in classes.items())
    assert defaults == (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    )
    assert shared_config._attn_implementation == implementation
    assert same(before, outputs(other, inputs))
    assert not any(installed(m) for m in other.modules())


def test_registration_changes_no_other_entry(all_win):
    from transformers import AttentionInterface, AttentionMaskInterface

    before = dict(AttentionInterface._global_mapping), dict(AttentionMaskInterface._global_mapping)
    model, inputs = small_models.make_qwen3(), {"input_ids": torch.randint(0, 100, (2, 16))}
    kernel_pytorch.optimize(model, inputs)
    row = next(r for r in kernel_pytorch.report(model).rows if "registered" in r.kind)
    assert row.kept and model.config._attn_implementation == "kpt"
    after = dict(AttentionInterface._global_mapping), dict(AttentionMaskInterface._global_mapping)
    for old, new in zip(before, after):
        assert {k: v for k, v in new.items() if not k.startswith("kpt")} == {
            k: v for k, v in old.items() if not k.startswith("kpt")
        }
    kernel_pytorch.revert(model)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("where", ["capture", "trial", "check", "whole model"])
def test_interrupt_leaves_the_model_as_it_was(where, all_win, monkeypatch):
    model, inputs, _ = _model("bert")
    before, state = outputs(model, inputs), _state(model)
    targets = {
        "capture": "kernel_pytorch.optimize.session.groups_of",
        "trial": "kernel_pytorch.optimize.session.paired",
        "check": "kernel_pytorch.optimize.session.hooked",
        "whole model": "kernel_pytorch.optimize.judge.paired",
    }

    def interrupt(*args, **kwargs):
        if where == "whole model":
            args[3](True)  # in the middle, with everything installed
            assert any(installed(m) for m in model.modules())
        raise KeyboardInterrupt

    monkeypatch.setattr(targets[where], interrupt)
    with pytest.raises(KeyboardInterrupt):
        kernel_pytorch.optimize(model, inputs, precision="bf16")
    monkeypatch.undo()
    assert _same_state(state, _state(model))
    assert same(before, outputs(model, inputs))
    with pytest.raises(ValueError, match="was not optimized"):
        kernel_pytorch.report(model)


def test_report_is_complete(all_win):
    model, inputs, _ = _model("bert")
    kernel_pytorch.optimize(model, inputs, precision="bf16")
    report = kernel_pytorch.report(model)
    data = json.loads(report.to_json())
    block = next(r for r in data["replacements"] if r["kind"] == "encoder block")
    assert block["count"] == 3 and block["kept"] and block["ran"].startswith("native")
    assert block["before_ms"] > 0 and block["after_ms"] > 0 and 0 < block["error"] < 0.03
    whole = data["model"]
    assert whole["throughput_before"] > 0 and whole["extra_bytes"] > 0 and whole["cosine"] > 0.99
    assert type(report).from_dict(data).to_dict() == data
    text = str(report)
    for word in ("encoder block", "packed_linear", "whole model", "cosine", "throughput"):
        assert word in text
    page = report.to_html()
    assert page.startswith("<!doctype html>") and "<svg" in page
    assert "<script" not in page and "http" not in page


def test_the_example_inputs_may_be_a_mapping_like_a_tokenizer_gives(all_win):
    from transformers import BatchEncoding

    model, inputs, _ = _model("bert")
    kernel_pytorch.optimize(model, BatchEncoding(inputs), precision="bf16")
    assert kernel_pytorch.report(model).kept


def test_time_budget_and_memory(all_win):
    model, inputs, _ = _model("bert")
    kernel_pytorch.optimize(model, inputs, time_budget=0.0)
    assert "time budget" in str(kernel_pytorch.report(model).rows[0].reason)
    kernel_pytorch.revert(model)
    kernel_pytorch.optimize(model, inputs, precision="bf16", max_memory=10_000)
    report = kernel_pytorch.report(model)
    assert sum(row.extra_bytes for row in report.rows if row.kept) <= 10_000
    assert any("max_memory" in row.reason for row in report.rows)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_optimized_by_itself(copied, all_win):
    model, inputs, _ = _model("torch encoder")
    original = outputs(model, inputs)
    kernel_pytorch.optimize(model, inputs, precision="bf16")
    optimized = outputs(model, inputs)
    twin = copied(model)
    kernel_pytorch.revert(model)
    assert same(outputs(twin, inputs), optimized)
    assert same(outputs(kernel_pytorch.revert(twin), inputs), original)


def test_exported_program(all_win):
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.LayerNorm(32))
    x = torch.randn(4, 32)
    exported = torch.export.export(model.eval(), (x,)).module()
    before = outputs(exported, (x,))
    kernel_pytorch.optimize(exported, (x,), precision="bf16")
    report = kernel_pytorch.report(exported)
    assert report.rows[0].kept and set(report.rows[0].ops) == {"packed_linear", "layer_norm"}
    after = outputs(exported, (x,))
    assert not same(before, after)
    torch.testing.assert_close(after, before, atol=0.05, rtol=0.05)
    kernel_pytorch.revert(exported)
    assert same(before, outputs(exported, (x,)))


def test_hidden_states_keep_their_dtype(all_win):
    """transformers records hidden states by hooks on its layers; they see what they always saw."""
    model, inputs, _ = _model("bert")
    kernel_pytorch.optimize(model, inputs, precision="bf16")
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    assert len(hidden) == 4 and {h.dtype for h in hidden} == {torch.float32}
