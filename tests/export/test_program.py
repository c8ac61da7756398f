import json

import pytest
import torch
from torch.torch_version import TorchVersion

from mtaclip.export import Agreement, compare, export_program, load_program, plain_program, save_program

CLOSE = 5e-5  # of scores up to 5; 1.6e-5 was measured where edges are odd, 5e-7 elsewhere


@pytest.fixture(scope="module")
def predictor(make_predictor):
    return make_predictor()


@pytest.fixture(scope="module")
def program(predictor, open_sizes):
    return export_program(predictor)


def test_an_older_pytorch_takes_a_size(predictor, monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.12.0+cpu"))
    with pytest.raises(ValueError, match=r"2\.12\.0\+cpu exports for images of one size.*--height.*from 2\.13 on"):
        export_program(predictor)


def test_one_program_takes_batches_and_sizes(predictor, program):
    run = program.module()
    for size in ((64, 160), (256, 512), (99, 131)):
        agreement = compare(run, predictor, size)
        assert agreement.equal == 1.0
        assert agreement.difference < CLOSE
    images = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    labels, scores = run(images)
    assert labels.shape == (3, 64, 96) and scores.shape == (3, 19, 64, 96)
    alone, _ = run(images[2:])
    assert torch.equal(alone[0], labels[2])


@pytest.mark.parametrize("difference", [1.1e-3, float("inf"), float("nan")])
def test_a_program_that_differs_is_refused(difference):
    Agreement(1e-3, 0.9, 0.0).check((64, 96))
    with pytest.raises(ValueError, match="on 64 x 96 pixels of noise, class scores of the file differ"):
        Agreement(difference, 1.0, 0.0).check((64, 96))


def test_a_program_refuses_images_out_of_its_limits(program):
    run = program.module()
    for shape in ((1, 3, 32, 64), (65, 3, 64, 64)):
        with pytest.raises((AssertionError, RuntimeError, ValueError)):
            run(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.slow
def test_the_file_holds_the_program_with_classes_colours_and_limits(predictor, program, tmp_path):
    file = tmp_path / "model.pt2"
    save_program(program, predictor, file)
    assert compare(load_program(file), predictor, (64, 96)).equal == 1.0
    texts = dict.fromkeys(["classes", "colours", "batches", "edges", "step", "sizes"], "")
    torch.export.load(file, extra_files=texts)
    facts = {name: json.loads(text) for name, text in texts.items()}
    assert facts["classes"][:2] == ["road", "sidewalk"] and len(facts["classes"]) == 19
    assert facts["colours"][0] == [128, 64, 128]
    assert facts["batches"] == [1, 64] and facts["edges"] == [64, 4096] and facts["step"] == 1
    assert facts["sizes"] == [128, 256]


@pytest.mark.slow
def test_deformable_attention_is_one_operator_or_pytorchs_own(program):
    def names(graph):
        return {str(node.target).split(".")[0] for node in graph.nodes if node.op == "call_function"}

    assert "mtaclip" in names(program.graph)
    plain = names(plain_program(program).graph)
    assert "mtaclip" not in plain and "aten" in plain


@pytest.mark.slow
@pytest.mark.usefixtures("open_sizes")
@pytest.mark.parametrize(("method", "tower"), [("mask2former", "resnet"), ("mtaclip", "vit")])
def test_every_kind_of_model_becomes_a_program(make_predictor, method, tower):
    predictor = make_predictor(method, tower)
    run = export_program(predictor).module()
    for size in ((256, 512), (80, 144)):
        agreement = compare(run, predictor, size)
        assert agreement.equal > 0.9999 and agreement.preference < CLOSE
        assert agreement.difference < CLOSE


@pytest.mark.slow
def test_a_swin_transformer_becomes_a_program_for_one_size(make_predictor):
    predictor = make_predictor("mask2former", "swin")
    agreement = compare(export_program(predictor, (99, 131)).module(), predictor, (99, 131))
    assert agreement.equal == 1.0
    assert agreement.difference < CLOSE


@pytest.mark.slow
@pytest.mark.usefixtures("open_sizes")
def test_the_program_is_the_same_without_the_compiled_operator(run_script, predictor, tmp_path):
    script = (
        "import sys, mtaclip; from mtaclip.engine import setup_cfg; from mtaclip.predictor import Predictor\n"
        "from mtaclip.export import export_program\n"
        "program = export_program(Predictor.from_checkpoint(sys.argv[1], 'cpu'))\n"
        "print(sum('mtaclip.ms_deform_attn' in str(node.target) for node in program.graph.nodes))"
    )
    file = tmp_path / "model.pth"
    torch.save({"model": predictor.model.state_dict(), "config": predictor.cfg.dump()}, file)
    done = run_script("-c", script, file, MTACLIP_OPS="pytorch")
    assert done.stdout.split() == ["1"], done.stderr
