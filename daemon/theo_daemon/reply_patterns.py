"""Which streams a job may name in `reply_to`."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from theo_daemon.hash_slot import hash_tag, slot_of

NOT_ALLOWED = "reply_to matches no pattern of reply.allowed, or is a key of the router's own"


class ReplyPattern(Struct, frozen=True):
    """A pattern cut at its stars: `head`, any run, each of `middle` in turn between runs, `tail`.

    `exact` when there is no star. Cut instead of turned into a regular expression, because clients choose the
    names: matching is linear in the name, whatever it is.
    """

    head: str
    middle: tuple[str, ...] = ()
    tail: str = ""
    exact: bool = False

    def matches(self, name: str) -> bool:
        """Does the whole of `name` fit?"""
        if self.exact:
            return name == self.head
        end = len(name) - len(self.tail)
        if end < len(self.head) or not (name.startswith(self.head) and name.endswith(self.tail)):
            return False
        at = len(self.head)
        for piece in self.middle:  # leftmost fit of each piece leaves the most room for the next
            found = name.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True


class ReplyPatterns(Struct, frozen=True):
    """The patterns of `reply.allowed`, ready for use, and the key prefix whose names are the router's own.

    `slot` is that of all keys on Redis Cluster, where no script can write to another; None elsewhere.
    """

    prefix: str
    patterns: tuple[ReplyPattern, ...]
    slot: int | None = None


def compile_pattern(text: str) -> ReplyPattern:
    """`*` is any run of characters, also an empty one; nothing else is special."""
    head, *rest = text.split("*")
    if not rest:
        return ReplyPattern(head, exact=True)
    return ReplyPattern(head, tuple(piece for piece in rest[:-1] if piece), rest[-1])


def compile_patterns(prefix: str, allowed: Iterable[str], *, one_slot: bool = False) -> ReplyPatterns:
    """Made once, at start: `prefix` is `redis.prefix`, `allowed` is `reply.allowed` with `P:` filled in.

    With `one_slot`, on Redis Cluster, a reply stream needs the hash tag of the prefix besides.
    """
    patterns = tuple(compile_pattern(text) for text in allowed)
    return ReplyPatterns(prefix, patterns, slot_of(prefix) if one_slot else None)


def own_key(prefix: str, name: str) -> bool:
    """Is `name` one of the router's own keys, where a reply would be read as a job, a command or worse?

    All of `prefix:` is the router's, so that a key added later is safe too; the default reply stream and
    `prefix:reply:...` are the two exceptions made for clients.
    """
    if not name.startswith(f"{prefix}:"):
        return False
    rest = name[len(prefix) + 1 :]
    return rest != "replies" and not rest.startswith("reply:")


def allowed_reply(patterns: ReplyPatterns, name: str) -> bool:
    """May a job have its reply on the stream `name`?"""
    return why_refused(patterns, name) is None


def why_refused(patterns: ReplyPatterns, name: str) -> str | None:
    """What to tell the client whose reply may not go to the stream `name`; None when it may."""
    if not name or own_key(patterns.prefix, name):
        return NOT_ALLOWED
    if not any(pattern.matches(name) for pattern in patterns.patterns):
        return NOT_ALLOWED
    if patterns.slot is not None and slot_of(name) != patterns.slot:
        return f"reply_to needs the hash tag {{{hash_tag(patterns.prefix)}}}: this Redis is a cluster"
    return None


def can_match(prefix: str, text: str) -> bool:
    """Can the pattern `text` allow any name at all, the router's own keys being refused?"""
    head, star, _ = text.partition("*")
    if not star:
        return bool(head) and not own_key(prefix, head)
    if not head.startswith(f"{prefix}:"):
        return True
    rest = head[len(prefix) + 1 :]
    return rest.startswith("reply:") or "reply:".startswith(rest) or "replies".startswith(rest)
