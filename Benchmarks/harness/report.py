# SPDX-License-Identifier: Apache-2.0
"""Medians, spreads, ratios within a round, and the verdict on each must-hold line."""

from statistics import median

# The must-hold figures. A ratio compares two rows of the same cell and round.
TCP_SPEED_RATIO_MIN = 0.9
TCP_CPU_RATIO_MAX = 1.1
LEASE_P50_RATIO_MAX = 1.2
COPY_SPEED_RATIO_MIN = 0.9
MIXED_P99_RATIO_MAX = 0.5

SPEED = "gigabytes_per_second"
CPU = "server_cpu_seconds_per_gigabyte"


class Results:
    """All rows of a run, found by cell, variant and round."""

    def __init__(self):
        self.rows = []

    def add(self, cell, variant, round_number, row):
        self.rows.append({**row, "cell": cell.name, "variant": variant.name, "round": round_number})

    def by_round(self, cell_name, variant_name):
        return {row["round"]: row for row in self.rows
                if row["cell"] == cell_name and row["variant"] == variant_name}

    def values(self, cell_name, variant_name, field):
        rows = self.by_round(cell_name, variant_name)
        return [row[field] for row in rows.values() if row[field] is not None]

    def ratios(self, field, left, right):
        """field of `left` over field of `right`, both (cell name, variant name), round by round."""
        left_rows, right_rows = self.by_round(*left), self.by_round(*right)
        return [left_rows[each][field] / right_rows[each][field]
                for each in sorted(left_rows.keys() & right_rows.keys())
                if left_rows[each][field] is not None and right_rows[each][field]]


def spread(values, digits=2):
    if not values:
        return "-"
    return (f"{median(values):.{digits}f} "
            f"({min(values):.{digits}f}..{max(values):.{digits}f})")


def yardstick(cell):
    """The variant that the others of a cell are compared with."""
    return {"tcp": "reference " + cell.variants[0].operation, "mixed": "reference get",
            "lease": "reference ping", "copy": "reference memcpy"}[cell.kind]


def print_cell(cell, results):
    compared = "p99_microseconds" if cell.kind == "mixed" else (
        "p50_microseconds" if cell.kind == "lease" else SPEED)
    base = yardstick(cell)
    print(f"\n### {cell.name} (ratio of {compared} to {base}, same round)\n")
    print("| system, operation | GB/s | ratio | p50 us | p99 us | p99.9 us "
          "| server CPU s/GB | CPU us/op | background GB/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for variant in sorted(cell.variants, key=lambda each: each.name != base):
        def column(field, digits=2, name=variant.name):
            return spread(results.values(cell.name, name, field), digits)
        if not results.by_round(cell.name, variant.name):
            continue
        ratios = results.ratios(compared, (cell.name, variant.name), (cell.name, base))
        print(f"| {variant.name} | {column(SPEED)} | {spread(ratios)} "
              f"| {column('p50_microseconds', 1)} | {column('p99_microseconds', 1)} "
              f"| {column('p999_microseconds', 1)} | {column(CPU, 3)} "
              f"| {column('server_cpu_microseconds_per_operation', 1)} "
              f"| {column('background_gigabytes_per_second')} |")


def judge(text, values, low=None, high=None, floor=None):
    """One verdict line; the median decides, the spread is shown.

    `floor` holds the same ratio of the reference to itself, where that says what the machine
    allows.
    """
    if not values:
        return None
    middle = median(values)
    kept = (low is None or middle >= low) and (high is None or middle <= high)
    bound = f">= {low}" if low is not None else f"<= {high}"
    line = f"{'holds' if kept else 'FAILS'}  {text}: {spread(values)}, must be {bound}"
    return kept, line + (f"; the reference reaches {spread(floor)}" if floor else "")


def judge_tcp(cell, results):
    operation = cell.variants[0].operation
    own = (cell.name, f"kvstore {operation}")
    reference = (cell.name, f"reference {operation}")
    yield judge(f"{cell.name} speed, kvstore / reference",
                results.ratios(SPEED, own, reference), low=TCP_SPEED_RATIO_MIN)
    for rival in ("memcached", "redis"):
        yield judge(f"{cell.name} speed, kvstore / {rival}",
                    results.ratios(SPEED, own, (cell.name, f"{rival} {operation}")), low=1.0)
    yield judge(f"{cell.name} server CPU per GB, kvstore / reference",
                results.ratios(CPU, own, reference), high=TCP_CPU_RATIO_MAX)


def judge_cell(cell, results):
    if cell.kind == "tcp":
        yield from judge_tcp(cell, results)
    elif cell.kind == "mixed":
        yield judge(f"{cell.name} p99 beside bulk, kvstore / reference",
                    results.ratios("p99_microseconds", (cell.name, "kvstore get"),
                                   (cell.name, "reference get")), high=MIXED_P99_RATIO_MAX)
    elif cell.kind == "lease":
        yield judge(f"{cell.name} p50 in place, kvstore / empty round trip of the reference",
                    results.ratios("p50_microseconds", (cell.name, "kvstore lease"),
                                   (cell.name, "reference ping")), high=LEASE_P50_RATIO_MAX)
    elif cell.kind == "copy":
        yield judge(f"{cell.name} copied out, kvstore / memcpy from the same arena",
                    results.ratios(SPEED, (cell.name, "kvstore lease-copy"),
                                   (cell.name, "kvstore memcpy")), low=COPY_SPEED_RATIO_MIN,
                    floor=results.ratios(SPEED, (cell.name, "reference lease-copy"),
                                         (cell.name, "reference memcpy")))


def judge_size_independence(cells, results):
    """The in-place p50 of the largest value against that of the smallest, round by round."""
    leases = [cell for cell in cells if cell.kind == "lease"]
    if len(leases) < 2:
        return None
    return judge(f"p50 in place, {leases[-1].name} / {leases[0].name}",
                 results.ratios("p50_microseconds", (leases[-1].name, "kvstore lease"),
                                (leases[0].name, "kvstore lease")), high=LEASE_P50_RATIO_MAX)


def print_verdicts(cells, results):
    """Prints the verdicts; returns how many figures fail."""
    verdicts = [verdict for cell in cells for verdict in judge_cell(cell, results)]
    verdicts.append(judge_size_independence(cells, results))
    verdicts = [verdict for verdict in verdicts if verdict is not None]
    print("\n### Verdicts (median of the rounds, lowest..highest)\n")
    if not verdicts:
        print("None: kvstore was not measured.")
    for _, line in verdicts:
        print(line)
    return sum(1 for kept, _ in verdicts if not kept)
