"""A provider's named folder that has gone: its lease ends at the provider's expense, with a sentence."""

from pathlib import Path
from typing import cast

import pytest

from market.actors.host_config import Hardware, HostConfig
from market.actors.ray_node import RayNode
from market.actors.stable import Stable
from market.actors.stalls import WorkerEnded


@pytest.mark.parametrize("share", ["books", "never-shared"])
def test_a_lease_on_a_folder_that_is_not_there_is_given_back(tmp_path: Path, share: str) -> None:
    config = HostConfig(
        url="http://127.0.0.1:9", key="k", offer="offer-a", name="p", home=tmp_path, price_nanos_per_gpu_hour=1,
        shares={"books": tmp_path / "gone"},
    )  # fmt: skip
    nowhere = cast(RayNode, None)
    stable = Stable(config, Hardware("cpu", 1, 0.0), nowhere, on_death=lambda name: None)
    lease = {"id": "lease-000001", "epoch": 1, "slot": 0, "job": "job-a", "gpus": 1, "share": share}
    with pytest.raises(WorkerEnded, match=f"the folder shared as {share} is not there"):
        stable.assign(lease)
    assert not stable.serves(1)
