"""What a network's loss or score reacts to: the record of sensitivities, readable with numpy alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError
from sparsense.extras import need
from sparsense.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sparsense.recording.losses import Loss

Array = NDArray[np.float64]
Moments = Mapping[str, Mapping[str, Array]]
FORMAT = "sparsense.sensitivities.1"


@dataclass(frozen=True)
class RecordInfo:
    """Where the numbers of a record come from.

    Args:
        loss: Name of the loss or score that was differentiated; "" for a record made without data.
        mean_loss: Its mean over the samples.
        samples: Number of samples.
        network_sha256: Hash of the names, shapes and values of the network's parameters and buffers.
        data_sha256: Hash of the inputs and labels; "" for a record made without data.
    """

    loss: str = ""
    mean_loss: float = 0.0
    samples: int = 0
    network_sha256: str = ""
    data_sha256: str = ""


@dataclass(frozen=True)
class SensitivityRecord:
    """Moments over samples of g = dL/dw, of w * g, and of per-channel gates, for every prunable weight.

    Criteria are pure functions of the weights and of this record. Which moments it holds depends on the pass
    that made it; records of the same network are joined with `|`.

    Args:
        moments: Parameter name -> moment name -> float64 array shaped like (or broadcasting to) the weight.
        gates: Parameter name -> moment name -> float64 array `[O]`, one number per output channel.
        info: Where the numbers come from.
    """

    moments: Moments
    gates: Moments = field(default_factory=dict)
    info: RecordInfo = field(default_factory=RecordInfo)

    def __post_init__(self) -> None:
        object.__setattr__(self, "moments", _frozen(self.moments))
        object.__setattr__(self, "gates", _frozen(self.gates))

    def moment(self, name: str, moment: str) -> Array:
        """One moment of one weight.

        Raises:
            InputError: The record does not hold it; the message says what it holds.
        """
        return _lookup(self.moments, "moment", name, moment)

    def gate(self, name: str, moment: str) -> Array:
        """One moment of the gates of one layer's output channels, `[O]`."""
        return _lookup(self.gates, "gate moment", name, moment)

    def __or__(self, other: SensitivityRecord) -> SensitivityRecord:
        """Both records' moments; where both hold one, the right one counts, as does the right one's info."""
        if self.info.network_sha256 != other.info.network_sha256:
            raise InputError(
                "records can be joined only when they describe the same network; these were made of "
                f"{self.info.network_sha256[:12]}... and {other.info.network_sha256[:12]}...; record both anew"
            )
        info = other.info if other.info.samples else self.info
        return SensitivityRecord(_joined(self.moments, other.moments), _joined(self.gates, other.gates), info)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file; keys are `moments/<weight>/<moment>` and `gates/<weight>/<moment>`.

        The same record gives the same bytes.
        """
        save_file = need("safetensors.numpy", doing="saving sensitivities", extra="prune").save_file
        tensors = {
            f"{kind}/{name}/{moment}": np.ascontiguousarray(array)
            for kind, table in (("moments", self.moments), ("gates", self.gates))
            for name, entries in table.items()
            for moment, array in entries.items()
        }
        note = json.dumps({"format": FORMAT, **asdict(self.info)})  # one note: several come in any order
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={"info": note})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SensitivityRecord:
        """Read what `save` wrote; needs numpy and safetensors, not torch.

        Raises:
            InputError: The file is not a record of sensitivities.
        """
        safe_open = need("safetensors", doing="reading sensitivities", extra="prune").safe_open
        failure = need("safetensors", doing="reading sensitivities", extra="prune").SafetensorError
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return cls(*_tables(tensors), _info(metadata))
        except (failure, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"reading sensitivities from {os.fspath(path)}: expected a file in the format "
                             f"{FORMAT!r} written by SensitivityRecord.save; {error}") from error  # fmt: skip


def pooled(one: SensitivityRecord, other: SensitivityRecord) -> SensitivityRecord:
    """The record of all samples of two records: every moment is a mean over samples, so means are weighted by them.

    Args:
        one: A record.
        other: Of the same network and loss and with the same moments, of other samples. The hash of the data is that
            of the pair of hashes; set it anew where the samples are at hand.

    Raises:
        InputError: The records are of different networks or losses.
    """
    left, right = one.info, other.info
    if (left.network_sha256, left.loss) != (right.network_sha256, right.loss):
        raise InputError("records can be pooled only when they are of the same network and loss; these are of "
                         f"{left.network_sha256[:12]}... ({left.loss}) and {right.network_sha256[:12]}... "
                         f"({right.loss})")  # fmt: skip
    samples = left.samples + right.samples
    shares = left.samples / samples, right.samples / samples
    data = hashlib.sha256(f"{left.data_sha256} {right.data_sha256}".encode()).hexdigest()
    loss = shares[0] * left.mean_loss + shares[1] * right.mean_loss
    info = RecordInfo(left.loss, loss, samples, left.network_sha256, data)
    return SensitivityRecord(_pooled(one.moments, other.moments, shares), _pooled(one.gates, other.gates, shares), info)


def record_sensitivities(
    module: nn.Module,
    inputs: Tensor | NDArray[Any],
    labels: Tensor | NDArray[Any] | None = None,
    *,
    loss: str | Loss = "cross_entropy",
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> SensitivityRecord:
    """One streaming pass in evaluation mode: the moments of every prunable weight and output channel.

    Needs torch; see `sparsense.recording.moments.record_moments` for the definitions.
    """
    recording = need("sparsense.recording.moments", doing="recording sensitivities", extra="prune")
    record: SensitivityRecord = recording.record_moments(
        module, inputs, labels, loss=loss, batch_size=batch_size, progress=progress
    )
    return record


def _pooled(left: Moments, right: Moments, shares: tuple[float, float]) -> Moments:
    return {
        name: {key: shares[0] * array + shares[1] * right[name][key] for key, array in entries.items()}
        for name, entries in left.items()
    }


def _frozen(table: Moments) -> Moments:
    return MappingProxyType({name: MappingProxyType(dict(entries)) for name, entries in table.items()})


def _joined(left: Moments, right: Moments) -> Moments:
    return {name: {**left.get(name, {}), **right.get(name, {})} for name in {**left, **right}}


def _lookup(table: Moments, kind: str, name: str, moment: str) -> Array:
    if name not in table:
        raise InputError(f"the record holds no {kind}s of weight {name!r}; it holds those of "
                         f"{', '.join(table) or '(none)'}; record the network that is pruned")  # fmt: skip
    if moment not in table[name]:
        raise InputError(
            f"the record holds no {kind} {moment!r} of weight {name!r}; it holds "
            f"{', '.join(table[name]) or '(none)'}; make it with the pass that gives {moment!r}"
        )
    return table[name][moment]


def _tables(tensors: Mapping[str, Array]) -> tuple[Moments, Moments]:
    tables: dict[str, dict[str, dict[str, Array]]] = {"moments": {}, "gates": {}}
    for key, array in tensors.items():
        kind, _, rest = key.partition("/")
        name, _, moment = rest.rpartition("/")  # names of layers may hold slashes
        if not name:
            raise ValueError(f"found the key {key!r}")
        tables[kind].setdefault(name, {})[moment] = array
    return tables["moments"], tables["gates"]


def _info(metadata: Mapping[str, str]) -> RecordInfo:
    fields = json.loads(metadata.get("info", "{}"))
    if (found := fields.pop("format", metadata.get("format"))) != FORMAT:
        raise ValueError(f"found the format {found!r}")
    return RecordInfo(**fields)
