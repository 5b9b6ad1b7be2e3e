"""A changed model exports to ONNX like the original model in evaluation mode; in training mode both exporters raise."""

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import sparseout
from sparseout import LockedSparseout


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
def test_the_exported_layers_have_no_operator(tmp_path):
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


@pytest.mark.filterwarnings("ignore")
def test_the_older_exporter_raises_in_training_and_exports_no_operator_in_evaluation(tmp_path):
    model = sparseout.swap_dropout(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), 1.5).model
    file, x = tmp_path / "model.onnx", torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="torch.onnx.export.dynamo=False. by it, would record one mask"):
        torch.onnx.export(model, (x,), file, dynamo=False, training=torch.onnx.TrainingMode.TRAINING)
    assert not file.exists()
    torch.onnx.export(model, (x,), file, dynamo=False)
    assert {node.op_type for node in onnx.load(file).graph.node} == {"Gemm"}


@pytest.mark.filterwarnings("ignore")
def test_the_newer_exporter_raises_in_training():
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match="sparseout.draw"):
        torch.onnx.export(sparseout.Sparseout(), (torch.ones(2, 3),), dynamo=True, verbose=False)
