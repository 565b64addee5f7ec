"""A dozen families, as small as timm has them, and two of torchvision; all families: python -m tests.zoo."""

from __future__ import annotations

from pathlib import Path

import pytest

from harden.models.split import DefaultSplit, split_points
from tests import zoo
from tests.zoo import Row, check, read_table, write_table

NETWORKS = (
    "timm:test_byobnet",
    "timm:test_convnext",
    "timm:test_efficientnet",
    "timm:test_efficientnet_gn",
    "timm:test_mambaout",
    "timm:test_nfnet",
    "timm:test_resnet",
    "timm:test_vit",
    "timm:test_vit3",
    "timm:mobilenetv3_small_050",
    "torchvision:squeezenet1_1",
    "torchvision:shufflenet_v2_x0_5",
)


@pytest.mark.filterwarnings("ignore")  # the libraries' own, as their networks are built
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_split_and_hardened(name):
    row = check("quick", name, 0, export=False)
    assert row.result == "ok", row


def test_the_table_reads_back(tmp_path: Path):
    rows = {
        "b": Row("b", "timm:b", "1.00 M", "64", "`x`", "10", "2.00 to 1.00", "1e-07"),
        "a": Row("a", "timm:a", result="the loss hardly falls"),
    }
    write_table(tmp_path / "zoo.md", rows)
    assert read_table(tmp_path / "zoo.md") == rows
    assert "1 of 2 pass" in (tmp_path / "zoo.md").read_text()
    assert read_table(tmp_path / "none.md") == {}


@pytest.mark.filterwarnings("ignore")
def test_it_fails_where_scores_are_split_at_or_the_loss_stays(monkeypatch):
    def at_scores(classifier):
        return DefaultSplit(next(point for point in split_points(classifier) if point.layer == "fc"), "")

    monkeypatch.setattr(zoo, "harden_a_little", lambda classifier, layer, rate: (3.0, 2.96))
    assert check("quick", "timm:test_resnet", 0, export=False).result == "the loss hardly falls"
    monkeypatch.setattr(zoo, "default_split", at_scores)
    assert check("quick", "timm:test_resnet", 0, export=False).result == "split at scores"
