"""Fit the weights of a file to a network: take one copy, change names, convert numbers, and tell it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError, one_line
from zskd.teacher.weights.fits import Fit, Table, find_fits
from zskd.teacher.weights.names import COUNTER, WRAPPERS, Wanted, plain_name
from zskd.teacher.weights.reading import WeightsFile
from zskd.teacher.weights.refusal import Advice, label, refuse
from zskd.teacher.weights.stored import StoredTensor

_AVERAGED = re.compile(r"(?:^|[._-])(?:ema|swa|averag|shadow|teacher)|EMA|Ema|SWA")
"""Keys of averaged copies: model_ema, state_dict_ema, ema_state_dict, modelEMA, averaged_model, shadow; and
of the teacher in self-distillation (mean teacher, DINO), which is an average of the student."""
_BEST = re.compile(r"(?:^|[._-])best", re.IGNORECASE)
_UNTRAINED = re.compile(r"(?:^|[._-])(?:init|initial|pretrained)(?:[._-]|$)", re.IGNORECASE)
"""Keys of copies from before the training, which are taken last."""
OPTIMISER = re.compile(
    r"(?:^|[._-])(?:optim|opt(?:$|[._-])|exp_avg|momentum(?!_encoder|_model)|grad)", re.IGNORECASE
)
"""Keys of the state of an optimiser, which may have the names and shapes of the network, too. The momentum
encoder of MoCo is a network."""
_MOST_TOLD = 4
_ADVICE = Advice()


@dataclass(frozen=True)
class Fitted:
    """The weights of a network, and what was done to get them."""

    tensors: dict[str, Tensor]
    """The network's own names -> values; floating-point numbers in float32."""
    taken: str
    """Place in the file ("state_dict", "." for its top), as `weights` takes it."""
    summary: str
    """One line: what was taken, stripped, dropped, filled, converted, what else there is, and what code the
    file names."""
    epsilon: float
    """Relative spacing of the coarsest floating-point type that was read (`torch.finfo(…).eps`)."""


def fit_weights(
    module: nn.Module, file: WeightsFile, weights: str | None = None, advice: Advice = _ADVICE
) -> Fitted:
    """Find the network in a file.

    Every dictionary of tensors of the file is tried. A copy fits when all tensors of the network are there,
    with its shapes, behind a common prefix (`module.`, `model.net.`), wrappers inside names left out.
    Counters of batch-norm may be missing, as in torch's own strict load. What the network does not have may
    be there if it stands outside of the prefix or belongs to a tool or a loss.

    Several copies: an averaged one (EMA, SWA, the teacher beside a student) is taken first, because training
    scripts evaluate and publish it (timm prefers `state_dict_ema` too), then one called best, then the first
    of the file; one from before the training (init_state_dict) last. The summary names the others.

    Args:
        module: the network; it is not changed.
        file: from `read_weights`.
        weights: place of another copy in the file.
        advice: how the user names another network.

    Raises:
        ZskdError: no copy fits, there is no such place, or values are not finite; the message says how near
            the file comes.
    """
    wanted = Wanted.of(module)
    fits = _find(file, wanted, weights)
    if not fits:
        refuse(file, wanted, weights, advice)
    fit, *others = sorted(fits, key=_rank)
    return _take(fit, others, file, wanted, weights)


def _find(file: WeightsFile, wanted: Wanted, weights: str | None) -> list[Fit]:
    """Return all copies, or those at a place."""
    tables = [Table(key, tensors) for key, tensors in file.candidates.items() if not OPTIMISER.search(key)]
    fits = [fit for table in tables for fit in find_fits(table, wanted)]
    if not fits and len(tables) > 1:  # a dictionary for each layer or part of the network
        joined = {
            f"{table.key}.{name}".removeprefix("."): file.candidates[table.key][name]
            for table in tables
            for name in table.original.values()
        }
        fits = find_fits(Table("", joined), wanted)
    if weights is None:
        return fits
    return [fit for fit in fits if weights == fit.address] or [fit for fit in fits if weights == fit.key]


def _rank(fit: Fit) -> tuple[bool, bool, bool]:
    """Order of preference; equal ones keep the order of the file."""
    # MMEngine saves the average as state_dict, and the raw weights, with a counter `steps`, as ema_state_dict
    if fit.table.key.endswith("ema_state_dict") and "steps" in fit.table.original.values():
        return False, True, True
    untrained = _UNTRAINED.search(fit.address) is not None
    return untrained, not _AVERAGED.search(fit.address), not _BEST.search(fit.address)


def _take(fit: Fit, others: Sequence[Fit], file: WeightsFile, wanted: Wanted, given: str | None) -> Fitted:
    """Read and convert the values of a copy."""
    tensors: dict[str, Tensor] = {}
    kinds: Counter[str] = Counter()
    epsilon = torch.finfo(torch.float32).eps
    for plain, name in fit.found.items():
        own = wanted.plain[plain]
        stored = fit.table.tensors[name]
        where = f"{file.path}: {label(fit.table.original.get(name, name))}"
        tensors[own] = _converted(stored, wanted.own[own], where)
        if stored.dtype != tensors[own].dtype:
            kinds[str(stored.dtype).removeprefix("torch.")] += 1
        if stored.dtype.is_floating_point and wanted.own[own].is_floating_point():
            epsilon = max(epsilon, torch.finfo(stored.dtype).eps)
    filled = _fill(tensors, wanted)
    place, rest = _places(fit, others)
    place = given or place
    told = [_taken(place, len(fit.found)), *_renamed(fit), *_left_out(fit)]
    told += [f"filled {name} ({count})" for name, count in filled.items()]
    told += [f"converted {count} tensors from {kind}" for kind, count in kinds.items()]
    name = label(file.path.absolute().name, quote=False)
    summary = f"{name}: {file.kind}, {', '.join(told)}{_others(rest)}{_code(file)}"
    return Fitted(tensors, place, summary, epsilon)


def _others(places: Sequence[str]) -> str:
    if not places:
        return ""
    one = f"it with --weights {label(places[0], quote=False)}"
    names = _few([label(place) for place in places])
    return f"; also holds {names}: take {one if len(places) == 1 else 'another with --weights KEY'}"


def _places(fit: Fit, others: Sequence[Fit]) -> tuple[str, list[str]]:
    """Return the places of the copy and of the others: without the prefix where that is enough."""
    keys = Counter(one.key for one in (fit, *others))
    places = [one.key if keys[one.key] == 1 else one.address for one in (fit, *others)]
    return places[0], places[1:]


def _converted(stored: StoredTensor, own: Tensor, where: str) -> Tensor:
    """Return the values in the shape and kind of number of the network's tensor.

    Raises:
        ZskdError: they are quantised, not finite, or of another kind.
    """
    if stored.obstacle:
        raise ZskdError(f"{where} {stored.obstacle}: give the weights in float32, float16 or bfloat16")
    if stored.dtype.is_complex != own.is_complex() or (
        own.is_floating_point() and not stored.dtype.is_floating_point
    ):
        raise ZskdError(f"{where} holds {stored.dtype}, and the network needs {own.dtype}: use another file")
    try:
        values = stored.read().reshape(own.shape)
    except (ValueError, RuntimeError) as error:
        raise ZskdError(
            f"{where} cannot be read ({one_line(error)}): copy or download the file again"
        ) from error
    if not bool(torch.isfinite(values).all()):
        raise ZskdError(f"{where} holds values that are not finite (NaN or infinite): use another file")
    if own.is_complex():
        return values.to(own.dtype)
    if not own.is_floating_point():
        if not torch.equal(values, values.round() if values.is_floating_point() else values):
            raise ZskdError(f"{where} holds fractions, and the network needs {own.dtype}: use another file")
        return values.to(own.dtype)
    single = values.float()
    if not bool(torch.isfinite(single).all()):
        raise ZskdError(
            f"{where} holds values in {stored.dtype} that are too large for float32: use another file"
        )
    return single


def _fill(tensors: dict[str, Tensor], wanted: Wanted) -> Counter[str]:
    """Add counters and further names of the same tensor; return the last parts of the counters' names."""
    filled: Counter[str] = Counter()
    for own, value in wanted.own.items():
        if own in tensors:
            continue
        twin = next((other for other in wanted.tied.get(own, ()) if other in tensors), None)
        if twin is None:
            filled[COUNTER] += 1
        tensors[own] = value.detach().cpu().clone() if twin is None else tensors[twin]
    return filled


def _taken(place: str, count: int) -> str:
    return f"took {count} tensors" if place == "." else f"took {label(place)} ({count} tensors)"


def _renamed(fit: Fit) -> list[str]:
    """Tell what was stripped from the front of names, left out inside them, and folded."""
    fronts: dict[str, None] = {}
    inside: dict[str, None] = {}
    whole = 0
    for plain, name in fit.found.items():
        original = fit.table.original.get(name)
        if original is None:
            whole += 1
            continue
        parts = original.split(".")
        first = max(
            (n for n in range(len(parts)) if plain_name(".".join(parts[n:])) == plain_name(plain)), default=0
        )
        if first:
            fronts[".".join(parts[:first]) + "."] = None
        kept = plain.split(".")
        inside |= dict.fromkeys(part for part in parts[first:] if part in WRAPPERS and part not in kept)
    told = [f"stripped {_few([label(one) for one in fronts])}"] if fronts else []
    told += [f"left out {_few([label(one) for one in inside])} inside names"] if inside else []
    return told + ([f"folded {whole} weights held in two parts"] if whole else [])


def _left_out(fit: Fit) -> list[str]:
    """Tell what the file holds beside the copy, in groups."""
    groups: Counter[str] = Counter()
    for name in fit.dropped:
        first, dot, _ = fit.table.original[name].partition(".")
        last = name.rpartition(".")[2]
        groups[last if last in ("total_ops", "total_params", COUNTER) else first + dot + "*" * len(dot)] += 1
    return (
        [f"dropped {_few([f'{label(name, quote=False)} ({n})' for name, n in groups.items()])}"]
        if groups
        else []
    )


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - _MOST_TOLD} more" if len(items) > _MOST_TOLD else ""
    return ", ".join(items[:_MOST_TOLD]) + more


def _code(file: WeightsFile) -> str:
    """Tell what code a pickle names, besides layers of torch."""
    names = [label(name, quote=False) for name in file.names if not name.startswith("torch.nn.")]
    return f"; names code, which was not run: {_few(names)}" if names else ""
