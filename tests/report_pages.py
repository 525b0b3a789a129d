"""What a page of `srl report` holds, read back from it."""

import gzip
import json
import re
from base64 import b64decode


def data_of(page):
    """The one JSON object in a page."""
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def chunks_of(page):
    """Chunk id -> JSON value."""
    inline = re.findall(r'id="chunk-([0-9a-f]{16})">([^<]*)</script>', page.read_text(encoding="utf-8"))
    beside = [
        re.fullmatch(r'chunkLoaded\("(\w+)", "(.*)"\)\n', path.read_text()).groups()
        for path in page.parent.glob(f"{page.stem}_files/*.js")
    ]
    return {name: json.loads(gzip.decompress(b64decode(text))) for name, text in inline + beside}


def rollouts_of(page, run=0):
    """(what the index says of a group, its texts) of all groups in order."""
    chunks = chunks_of(page)
    index = chunks[data_of(page)["runs"][run]["index"]]
    return [(group, chunks[group["chunk"]][group["at"]]) for group in index]


def problems_of(page):
    return " | ".join(f"{item['name']}: {item['text']}" for item in data_of(page)["problems"])
