"""Slow, obvious twins of everything fast, written from the definitions; they share nothing with the package."""

from __future__ import annotations

import itertools
import struct
from fractions import Fraction


def rank_loads(expert_of_slot, load, num_ranks, slots_per_rank):
    """Load of each rank of one layer when every replica takes an equal share."""
    count = {e: expert_of_slot.count(e) for e in expert_of_slot}
    ranks = [expert_of_slot[r * slots_per_rank : (r + 1) * slots_per_rank] for r in range(num_ranks)]
    return [sum(load[e] / count[e] for e in rank if e >= 0) for rank in ranks]


def greedy_counts(load, num_slots, max_replicas):
    """+1 for the largest load per replica; lower index on ties; fewest replicas first where nothing has load."""
    count = [1] * len(load)
    for _ in range(num_slots - len(load)):
        free = [e for e in range(len(load)) if count[e] < max_replicas]
        count[min(free, key=lambda e: (-load[e] / count[e], count[e] if load[e] == 0 else 0, e))] += 1
    return count


def best_largest_replica(load, num_slots, max_replicas):
    """Smallest possible largest load per replica over all counts, exhaustively."""
    spare = num_slots - len(load)
    best = None
    for extra in itertools.product(range(min(spare, max_replicas - 1) + 1), repeat=len(load)):
        if sum(extra) == spare:
            largest = max(Fraction(x) / (1 + e) for x, e in zip(load, extra, strict=True))
            best = largest if best is None else min(best, largest)
    return best


def deal(weight, ids, order, num_packs, keep_apart=True):
    """Deal items in an order, each to the lightest pack with room that does not hold its id; return the packs' items."""
    size = len(weight) // num_packs
    packs = [[] for _ in range(num_packs)]

    def load(p):
        total = 0.0
        for i in packs[p]:
            total += weight[i]
        return total

    def holds(p, this_id):
        return any(ids[i] == this_id for i in packs[p])

    for item in order:
        roomy = [p for p in range(num_packs) if len(packs[p]) < size]
        fit = [p for p in roomy if not (keep_apart and holds(p, ids[item]))]
        if fit:
            packs[min(fit, key=lambda p: (load(p), p))].append(item)
            continue
        receiver = min(roomy, key=lambda p: (load(p), p))
        swaps = [
            (max(load(p) - weight[i] + weight[item], load(receiver) + weight[i]), order.index(i), p, i)
            for p in range(num_packs)
            if not holds(p, ids[item])
            for i in packs[p]
            if not holds(receiver, ids[i])
        ]
        _, _, giver, moved = min(swaps)
        packs[giver].remove(moved)
        packs[receiver].append(moved)
        packs[giver].append(item)
    return packs


def largest_first(weight):
    """Positions from large to small, ties by position."""
    return sorted(range(len(weight)), key=lambda i: (-weight[i], i))


def published_layer(load, num_slots, num_ranks, keep_apart):
    """Greedy counts, then LPT of the replicas: the published global policy for one layer; rank loads."""
    cap = num_ranks if keep_apart else num_slots
    count = [1] * len(load)
    for _ in range(num_slots - len(load)):
        free = [e for e in range(len(load)) if count[e] < cap]
        count[max(free, key=lambda e: (load[e] / count[e], -e))] += 1
    expert = [e for e in range(len(load)) for _ in range(count[e])]
    weight = [load[e] / count[e] for e in expert]
    packs = deal(weight, expert, largest_first(weight), num_ranks, keep_apart)
    return [sum(weight[i] for i in pack) for pack in packs]


def published_policy(load, num_slots, num_groups, num_nodes, num_ranks, keep_apart):
    """Rank loads of one layer under the published policy, hierarchical where nodes divide groups, else global."""
    if num_groups % num_nodes:
        num_groups, num_nodes = 1, 1
    size = len(load) // num_groups
    groups = [list(range(g * size, (g + 1) * size)) for g in range(num_groups)]
    group_load = [sum(load[e] for e in group) for group in groups]
    nodes = deal(group_load, list(range(num_groups)), largest_first(group_load), num_nodes)
    loads = []
    for node in nodes:
        experts = [e for g in node for e in groups[g]]
        node_load = [load[e] for e in experts]
        loads += published_layer(node_load, num_slots // num_nodes, num_ranks // num_nodes, keep_apart)
    return loads


def strict_rank_loads(load, num_ranks, slots_per_rank, node_of_rank=None, group_of_expert=None):
    """Yield the rank loads of every strict placement of one layer, with groups whole on a node if asked."""
    choices = list(itertools.combinations(range(len(load)), slots_per_rank))
    for ranks in itertools.product(choices, repeat=num_ranks):
        held = [e for rank in ranks for e in rank]
        count = [held.count(e) for e in range(len(load))]
        if 0 in count:
            continue
        if group_of_expert is not None and any(
            len({node_of_rank[r] for r in range(num_ranks) for e in ranks[r] if group_of_expert[e] == g}) > 1
            for g in set(group_of_expert)
        ):
            continue
        yield [sum(Fraction(load[e]) / count[e] for e in rank) for rank in ranks]


def optimum(load, num_ranks, slots_per_rank, **rule):
    """Smallest possible largest rank load over every strict placement, exhaustively and exactly."""
    return min(max(ranks) for ranks in strict_rank_loads(load, num_ranks, slots_per_rank, **rule))


def exchanges(weight, ids, packs, p, q):
    """Yield (larger of the two loads after, i, j) for every legal exchange of an item of p for one of q."""
    for i in packs[p]:
        for j in packs[q]:
            if any(ids[k] == ids[i] for k in packs[q]) or any(ids[k] == ids[j] for k in packs[p]):
                continue
            p_load = sum(weight[k] for k in packs[p]) - weight[i] + weight[j]
            q_load = sum(weight[k] for k in packs[q]) - weight[j] + weight[i]
            yield max(p_load, q_load), i, j


def rebuild(weight, ids, first, second):
    """Deal the items of two packs anew, largest first, to the lighter with room; None where ids cannot be kept apart."""
    size = len(first)
    packs = [[], []]
    for item in sorted(first + second):
        by_load = sorted((0, 1), key=lambda p: (sum(weight[i] for i in packs[p]), p))
        with_room = [p for p in by_load if len(packs[p]) < size]
        apart = [p for p in with_room if all(ids[i] != ids[item] for i in packs[p])]
        if not apart:
            return None
        packs[apart[0]].append(item)
    return packs


MASK = 2**64 - 1


def split_mix(key, counter):
    """Draw number ``counter`` of a key: SplitMix64, from its publication, in Python integers."""
    bits = (key + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def row_key(seed, values):
    """Key of a row: seed, then the bits of each number, scrambled one after the other."""

    def mix(bits):
        return split_mix((bits - 0x9E3779B97F4A7C15) & MASK, 0)

    key = mix((seed + 0x9E3779B97F4A7C15) & MASK)
    for value in values:
        key = (mix(key ^ struct.unpack("<Q", struct.pack("<d", value))[0]) + 0x9E3779B97F4A7C15) & MASK
    return key


def dealing_order(kind, weight, noise, seed, candidate):
    """Order in which candidate number ``candidate`` deals items, which fall in weight already."""
    n = len(weight)
    key = split_mix(row_key(seed, weight), candidate)
    if kind == "lpt":
        return list(range(n))
    if kind == "zigzag":
        return [i // 2 if i % 2 == 0 else n - 1 - i // 2 for i in range(n)]
    if kind == "shuffle":
        order = list(range(n))
        for i in range(n - 1, 0, -1):
            j = ((split_mix(key, i) >> 32) * (i + 1)) >> 32
            order[i], order[j] = order[j], order[i]
        return order
    noisy = [w * (1.0 + noise * (2.0 * ((split_mix(key, i) >> 11) * 2.0**-53) - 1.0)) for i, w in enumerate(weight)]
    return largest_first(noisy)


def best_pairing(group_load, num_nodes):
    """Node of each group in the pairing whose heaviest node is lightest, and that load; the first such, lowest nodes first."""
    size = len(group_load) // num_nodes
    best = None
    for nodes in itertools.product(range(num_nodes), repeat=len(group_load)):
        opened = [node for i, node in enumerate(nodes) if node not in nodes[:i]]
        if opened != list(range(num_nodes)) or any(nodes.count(node) != size for node in range(num_nodes)):
            continue
        heaviest = max(sum(x for x, n in zip(group_load, nodes, strict=True) if n == node) for node in range(num_nodes))
        if best is None or heaviest < best[1]:
            best = list(nodes), heaviest
    return best


def times(packs, speed):
    """Time of each pack of (weight, id, item), weights added from heavy to light."""
    loads = []
    for pack in packs:
        total = 0.0
        for weight, _, _ in sorted(pack, key=lambda x: (-x[0], x[2])):
            total += weight
        loads.append(total)
    return [load * (1.0 / s) for load, s in zip(loads, speed, strict=True)]


def ranking(packs, speed):
    """Packs from slow to fast, lower numbers first on ties."""
    time = times(packs, speed)
    return sorted(range(len(packs)), key=lambda p: (-time[p], p))


def exchanges_between(packs, speed, p, q, size):
    """Yield (later end of the two, given, taken) for every legal exchange of ``size`` items of pack p for as many of q."""
    for given in itertools.combinations(packs[p], size):
        for taken in itertools.combinations(packs[q], size):
            ids = {x[1] for x in given}, {x[1] for x in taken}
            if ids[0] & {x[1] for x in packs[q]} or ids[1] & {x[1] for x in packs[p]}:
                continue
            shift = sum(x[0] for x in given) - sum(x[0] for x in taken)
            loads = [sum(x[0] for x in packs[r]) for r in (p, q)]
            yield max((loads[0] - shift) / speed[p], (loads[1] + shift) / speed[q]), given, taken


def exchange_by_rule(packs, speed, size):
    """Partner and end of the exchange to make with the slowest pack; None where none helps.

    Partners come from fast to slow; the first whose best exchange ends at or below the second slowest pack's time is taken,
    else the one whose best exchange ends earliest.
    """
    order = ranking(packs, speed)
    time = times(packs, speed)
    best = time[order[0]] * (1 - 1e-13), None
    for p in order[:0:-1]:
        end = min((x[0] for x in exchanges_between(packs, speed, order[0], p, size)), default=best[0])
        if end < best[0]:
            best = end, p
            if end <= time[order[1]]:
                break
    return None if best[1] is None else (best[1], best[0])


def pairs_from_outside_in(share, count):
    """(sum, heavier expert, lighter expert) of the largest replica with the smallest, of what is left the same, and so on."""
    replicas = [e for e in sorted(range(len(share)), key=lambda e: (-share[e], e)) for _ in range(count[e])]
    n = len(replicas)
    return [(share[replicas[i]] + share[replicas[n - 1 - i]], replicas[i], replicas[n - 1 - i]) for i in range(n // 2)]


def least_largest_pair(weight):
    """Smallest possible largest pair over all ways to pair an even number of items, exhaustively."""
    if not weight:
        return 0
    rest = weight[1:]
    return min(max(weight[0] + rest[i], least_largest_pair(rest[:i] + rest[i + 1 :])) for i in range(len(rest)))


def ways_to_count(experts, slots, most):
    """Every way to give each expert 1 to ``most`` replicas, ``slots`` in all, in lexicographic order."""
    if experts == 0:
        return [[]] if slots == 0 else []
    return [[n, *rest] for n in range(1, most + 1) if n <= slots for rest in ways_to_count(experts - 1, slots - n, most)]


def can_be_packed(count, room):
    """Whether packs of these rooms can be filled with no item twice on a pack, all ways tried."""
    if not room:
        return not any(count)
    choices = itertools.combinations([e for e in range(len(count)) if count[e]], room[0])
    return any(can_be_packed([n - (e in chosen) for e, n in enumerate(count)], room[1:]) for chosen in choices)
