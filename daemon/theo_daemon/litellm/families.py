"""Deployments of one name, fallbacks and aliases become models and groups, with names that are allowed here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from theo_daemon.litellm.draft import Draft
from theo_daemon.litellm.notes import Notes

_FORBIDDEN = re.compile(r"[^A-Za-z0-9._:-]+")
_LONGEST = 56  # leaves room for what is appended
STEP = 1e-6  # of the weight of those who are asked before


class Families(Struct, kw_only=True):
    """All models, and what clients ask for: a model's own name, or a group of them."""

    models: list[Draft]
    groups: dict[str, list[str]]
    names: dict[str, str]  # LiteLLM's model_name or alias -> the name here
    ranked: bool  # is one asked after another, and others after that one?


def build_families(
    drafts: Sequence[Draft], fallbacks: Mapping[str, Sequence[str]], aliases: Mapping[str, str], notes: Notes
) -> Families:
    """`fallbacks` by model_name, in the order in which they are asked."""
    return _Builder(drafts, aliases, notes).build(fallbacks)


class _Builder:
    def __init__(self, drafts: Sequence[Draft], aliases: Mapping[str, str], notes: Notes) -> None:
        self._aliases, self._notes = aliases, notes
        self._members: dict[str, list[Draft]] = {}
        for draft in drafts:
            self._members.setdefault(draft.asked, []).append(draft)
        self._names = _names([*self._members, *aliases], notes)
        self._taken = set(self._names.values())
        self._models: list[Draft] = []
        self._copies: dict[tuple[str, float], Draft] = {}
        self._ranked = False

    def build(self, fallbacks: Mapping[str, Sequence[str]]) -> Families:
        following = {asked: self._known(asked, fallbacks.get(asked, ())) for asked in self._members}
        for asked, own in self._members.items():
            alone = len(own) == 1 and not following[asked]
            for number, draft in enumerate(own, 1):
                name = self._names[asked]
                draft.name = name if alone else _free(f"{name}-{number}", self._taken)
            self._weigh(own)
            self._models += own
        groups = {
            self._names[asked]: self._group(own, following[asked])
            for asked, own in self._members.items()
            if len(own) > 1 or following[asked]
        }
        for alias, asked in self._aliases.items():
            if asked in self._members:
                groups[self._names[alias]] = groups.get(self._names[asked], [self._names[asked]])
            else:
                self._notes.lost(f"model_group_alias {alias[:64]!r}", "names no model that was taken over")
        return Families(models=self._models, groups=groups, names=self._names, ranked=self._ranked)

    def _known(self, asked: str, targets: Sequence[str]) -> list[str]:
        found = []
        for target in targets:
            if target in self._members and target != asked:
                found.append(target)
            else:
                self._notes.lost(
                    f"fallbacks of {asked[:64]!r}",
                    f"{target[:64]!r} names no other model that was taken over",
                )
        return list(dict.fromkeys(found))

    def _group(self, own: Sequence[Draft], following: Sequence[str]) -> list[str]:
        """The models of one name. Who is asked only after others has a weight that is nothing beside theirs."""
        orders = [
            [draft for draft in own if draft.order == order] for order in sorted({one.order for one in own})
        ]
        places = len(orders) + len(following)
        self._ranked = self._ranked or places > 2
        found: list[str] = []
        for place, tier in enumerate(orders):
            for draft in tier:
                weight = _weight(draft, place, places)
                if weight != 1.0:
                    draft.routing["weight"] = weight
                found.append(draft.name)
        for place, target in enumerate(following, len(orders)):
            found += [
                self._copy(draft, _weight(draft, place, places)).name for draft in self._members[target]
            ]
        return found

    def _copy(self, draft: Draft, weight: float) -> Draft:
        """A weight is a model's own, so who is asked first under its own name and last under another is two models."""
        copy = self._copies.get((draft.name, weight))
        if copy is None:
            name = _free(f"{draft.name[:_LONGEST]}.fallback", self._taken)
            copy = structs.replace(
                draft,
                name=name,
                routing={**draft.routing, "weight": weight},
                remarks=[f"{draft.name}, where others fall back to it."],
            )
            self._copies[draft.name, weight] = copy
            self._models.append(copy)
            apart = "its limits and its circuit are apart"
            if "spend_ceiling" in draft.routing:
                apart += ", and so is its ceiling: together they may spend twice as much"
            self._notes.lost(
                f"fallbacks to {draft.asked[:64]!r}",
                f"{name} is a copy of {draft.name} that others fall back to: {apart}",
            )
        return copy

    def _weigh(self, own: Sequence[Draft]) -> None:
        """As LiteLLM weighs: by the first of weight, rpm and tpm that the first deployment has; others get 0."""
        key = next((key for key in ("weight", "rpm", "tpm") if getattr(own[0], key) is not None), None)
        for draft in own if key is not None else ():
            value = getattr(draft, str(key))
            if value is None and len(own) > 1:
                self._notes.told(
                    f"model_name {draft.asked[:64]!r}",
                    f"{draft.name} has no {key}, the first one has: weight 0, as before",
                )
            draft.weight = float(value or 0.0) if len(own) > 1 else None


def _weight(draft: Draft, place: int, places: int) -> float:
    """`place` is the draft's among those that are asked one after another."""
    own = 1.0 if draft.weight is None else draft.weight
    if place == 0:
        return own
    return 0.0 if place == places - 1 else float(f"{own * STEP**place:.12g}")


def _names(asked: Sequence[str], notes: Notes) -> dict[str, str]:
    names: dict[str, str] = {}
    taken: set[str] = set()
    for one in dict.fromkeys(asked):
        name = _FORBIDDEN.sub("-", one).strip("-")[:_LONGEST] or "model"
        names[one] = _free(name, taken)
        if names[one] != one:
            notes.lost(f"model_name {one[:64]!r}", f"is no name here: jobs must ask for {names[one]!r}")
    return names


def _free(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found)
    return found
