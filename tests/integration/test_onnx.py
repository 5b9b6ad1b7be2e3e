"""A changed model in evaluation mode exports to ONNX as if nothing had been changed."""

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import sparseout
from sparseout import LockedSparseout


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
def test_the_layers_leave_no_operator_behind(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(2), LockedSparseout(), nn.Dropout(0.5)
    ).eval()
    model.eval()
    x = torch.randn(2, 3, 6, 6)
    changed = sparseout.insert_after(sparseout.swap_dropout(model, 1.5).model, nn.ReLU, q=1.5, p=0.1).model
    torch.onnx.export(changed, (x,), tmp_path / "model.onnx", dynamo=True)
    exported = onnx.load(tmp_path / "model.onnx")
    assert {node.op_type for node in exported.graph.node} <= {"Conv", "Relu", "Reshape", "Flatten", "Identity"}
    (y,) = ReferenceEvaluator(exported).run(None, {exported.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x))
