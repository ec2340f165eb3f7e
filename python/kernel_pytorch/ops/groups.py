"""What the grouped operators share: groups of consecutive rows, given by where each ends or, of
slots of one size, by how many rows each holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from kernel_pytorch.ops.spec import Case, Cost, ErrorCase

__all__ = [
    "LAYOUTS",
    "SIZES",
    "check_slots",
    "error_cases",
    "filled",
    "groups",
    "inputs",
    "offsets_of",
    "product_cost",
]

LAYOUTS = ("contiguous", "masked")

EVEN, RANDOM, SKEWED, SHORT = 1, 2, 3, 4
"""How a case spreads its rows: evenly; at random, with empty groups; nearly all to one group; at
random, with rows past the last group."""


def groups(
    op: str, offsets: torch.Tensor, rows: int, layout: str
) -> Iterator[tuple[int, int, int]]:
    """(group, first row, row after the last) of each group.

    Raises ValueError when ``offsets`` decrease or leave the rows.
    """
    if layout == "masked":
        slot = rows // max(1, len(offsets))
        for group, count in enumerate(offsets.tolist()):
            if not 0 <= count <= slot:
                raise ValueError(
                    f"{op}: argument 'offsets' must be from 0 to the {slot} rows of a group in "
                    f"'x', got {count} at {group}"
                )
            yield group, group * slot, group * slot + count
        return
    begin = 0
    for group, end in enumerate(offsets.tolist()):
        if not begin <= end <= rows:
            raise ValueError(
                f"{op}: argument 'offsets' must not decrease, from 0 to {rows} rows of 'x', got "
                f"{end} at {group} after {begin}"
            )
        yield group, begin, end
        begin = end


def check_slots(op: str, x: torch.Tensor, weight: torch.Tensor, layout: str) -> None:
    """Refuse rows that the masked layout cannot share out evenly."""
    if layout == "masked" and weight.shape[0] > 0 and x.shape[0] % weight.shape[0] != 0:
        raise ValueError(
            f"{op}: argument 'x' must have as many rows for each of the {weight.shape[0]} groups "
            f"in the masked layout, got {x.shape[0]}"
        )


def filled(
    parts: Iterable[tuple[int, torch.Tensor]], like: torch.Tensor, columns: int
) -> torch.Tensor:
    """``like``'s rows with ``columns`` columns: each part from its first row on, zeros between."""
    pieces: list[torch.Tensor] = []
    row = 0
    for begin, part in parts:
        pieces += [like.new_zeros(begin - row, columns), part]
        row = begin + len(part)
    return torch.cat([*pieces, like.new_zeros(len(like) - row, columns)])


def offsets_of(spread: int, count: int, rows: int, generator: torch.Generator) -> torch.Tensor:
    """The ends of ``count`` groups over ``rows`` rows."""

    def below(limit: int, shape: tuple[int, ...] = ()) -> torch.Tensor:
        return torch.randint(0, limit + 1, shape, generator=generator)

    if spread == EVEN or count == 0:
        ends = torch.tensor([rows * (i + 1) // count for i in range(count)])
    else:
        last = rows if spread != SHORT else int(below(rows))
        if spread == SKEWED:
            favourite = int(below(count - 1))
            sizes = torch.ones(count, dtype=torch.int64)
            sizes[favourite] = rows
            ends = sizes.cumsum(0).clamp(max=last)
        else:
            ends = below(last, (count,)).sort().values
        if spread != SHORT:
            ends[-1] = rows
    return ends.to(torch.int32)


SIZES: tuple[dict[str, int], ...] = (
    {"E": 1, "N": 7, "K": 33, "spread": EVEN},
    {"E": 3, "N": 0, "K": 5, "spread": EVEN},
    {"E": 3, "N": 5, "K": 0, "spread": EVEN},
    {"E": 0, "N": 5, "K": 4, "spread": EVEN},
    {"E": 4, "N": 65, "K": 31, "spread": EVEN},
    {"E": 5, "N": 16, "K": 64, "spread": RANDOM},
    {"E": 8, "N": 96, "K": 130, "spread": RANDOM},
    {"E": 8, "N": 130, "K": 96, "spread": SKEWED},
    {"E": 16, "N": 17, "K": 40, "spread": SHORT},
    {"E": 2, "N": 40, "K": 2100, "spread": RANDOM},
    {"E": 33, "N": 24, "K": 20, "spread": RANDOM},
)


def inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> list[torch.Tensor]:
    """x, weight and offsets; the rows of x are ``case.lead`` taken as one number, in the masked
    layout rounded up to a multiple of the groups."""
    rows = math.prod(case.lead)
    count, n, k = (case.sizes[name] for name in ("E", "N", "K"))
    masked = case.options.get("layout") == "masked"
    if masked:
        rows = -(-rows // max(1, count)) * max(1, count)
    x = torch.randn((rows, k), generator=generator).to(dtype)
    weight = (torch.randn((count, n, k), generator=generator) / max(1, k) ** 0.5).to(dtype)
    offsets = offsets_of(case.sizes["spread"], count, rows, generator)
    if masked:
        slot = rows // max(1, count)
        offsets = offsets.diff(prepend=offsets.new_zeros(1)).clamp(max=slot)
    return [x, weight, offsets]


def product_cost(
    x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, layout: str = "contiguous"
) -> Cost:
    """Of one product of the rows with the weights of the groups that have any."""
    spans = list(groups("cost", offsets, len(x), layout))
    used = sum(b > a for _, a, b in spans)
    rows = sum(b - a for _, a, b in spans)
    _, n, k = weight.shape
    return Cost(
        flops=2.0 * rows * n * k,
        read_bytes=(rows * k + used * n * k) * x.itemsize,
        write_bytes=x.shape[0] * n * x.itemsize,
        compute="bf16" if x.dtype == torch.bfloat16 else "fp32",
    )


def error_cases(op: str, *first: Callable[[], torch.Tensor]) -> tuple[ErrorCase, ...]:
    """Refused calls; ``first`` makes the arguments before x, for x of 5 rows, 3 columns and two
    groups of four outputs."""

    def refused(
        name: str,
        error: type[Exception],
        match: str,
        layout: str = "contiguous",
        **changed: Callable[[], Any],
    ) -> ErrorCase:
        def call(run: Callable[..., Any]) -> Any:
            given = {
                "x": torch.ones(5, 3),
                "weight": torch.ones(2, 4, 3),
                "offsets": torch.tensor([2, 5], dtype=torch.int32),
                **{k: make() for k, make in changed.items()},
            }
            return run(*(make() for make in first), *given.values(), layout=layout)

        return ErrorCase(name=name, call=call, error=error, match=f"{op}: argument {match}")

    def ends(*values: int) -> Callable[[], torch.Tensor]:
        return lambda: torch.tensor(values, dtype=torch.int32)

    return (
        refused(
            "offsets decrease",
            ValueError,
            r"'offsets' must not decrease, from 0 to 5 rows of 'x', got 2 at 1 after 3",
            offsets=ends(3, 2),
        ),
        refused(
            "offsets beyond the rows",
            ValueError,
            r"'offsets' must not decrease, from 0 to 5 rows of 'x', got 6 at 1 after 2",
            offsets=ends(2, 6),
        ),
        refused(
            "offsets below zero",
            ValueError,
            r"'offsets' must not decrease, from 0 to 5 rows of 'x', got -1 at 0 after 0",
            offsets=ends(-1, 5),
        ),
        refused(
            "more rows than a slot has",
            ValueError,
            r"'offsets' must be from 0 to the 5 rows of a group in 'x', got 6 at 0",
            layout="masked",
            weight=lambda: torch.ones(1, 4, 3),
            offsets=ends(6),
        ),
        refused(
            "fewer rows than none",
            ValueError,
            r"'offsets' must be from 0 to the 5 rows of a group in 'x', got -1 at 0",
            layout="masked",
            weight=lambda: torch.ones(1, 4, 3),
            offsets=ends(-1),
        ),
        refused(
            "slots of different sizes",
            ValueError,
            r"'x' must have as many rows for each of the 2 groups in the masked layout, got 5",
            layout="masked",
        ),
        refused(
            "unknown layout",
            ValueError,
            "'layout' must be one of 'contiguous', 'masked', got 'padded'",
            layout="padded",
        ),
        refused(
            "offsets of 64 bits",
            TypeError,
            "'offsets' must have dtype int32, got int64",
            offsets=lambda: torch.tensor([2, 5]),
        ),
        refused(
            "more offsets than weights",
            ValueError,
            "'offsets' must have size 2 for E",
            offsets=ends(1, 2, 5),
        ),
        refused(
            "weight of two dimensions",
            ValueError,
            "'weight' must have 3 dimensions",
            weight=lambda: torch.ones(4, 3),
        ),
        refused(
            "x of three dimensions",
            ValueError,
            "'x' must have 2 dimensions",
            x=lambda: torch.ones(1, 5, 3),
        ),
        refused(
            "other inner size",
            ValueError,
            "'weight' must have size 3 for K",
            weight=lambda: torch.ones(2, 4, 6),
        ),
        refused(
            "weight of another dtype",
            TypeError,
            "'weight' must have dtype float32, got bfloat16",
            weight=lambda: torch.ones(2, 4, 3).bfloat16(),
        ),
        refused(
            "weight transposed",
            ValueError,
            "'weight' must have a dense last dimension",
            weight=lambda: torch.ones(2, 3, 4).transpose(1, 2),
        ),
    )
