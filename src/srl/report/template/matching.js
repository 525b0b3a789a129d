// The matching blocks that the reward counts: Ratcliff–Obershelp exactly as in Python's difflib, without its
// autojunk heuristic. Take the longest block that two texts share (of equals the first in a, then the first in b),
// then do the same left and right of it.

/** Pairs of elements that are looked at before the search gives up, after about half a second: a degenerate
    rollout ("ababab…") would take minutes. The reward's own search is bounded otherwise (_matcher.c). */
const MAX_PAIRS = 300e6;

/** [start in a, start in b, length] of each block, in no order; null if that takes too long.
    a and b are arrays of integers. */
function matchingBlocks(a, b) {
  const blocks = [];
  let pairs = 0;
  const boxes = [[0, a.length, 0, b.length]];
  const lengths = new Int32Array(b.length + 1); // of the block that ends at b[j - 1] and the current a[i]
  while (boxes.length) {
    const [aStart, aEnd, bStart, bEnd] = boxes.pop();
    pairs += (aEnd - aStart) * (bEnd - bStart);
    if (pairs > MAX_PAIRS) return null;
    let [bestA, bestB, best] = [aStart, bStart, 0];
    lengths.fill(0, bStart, bEnd + 1);
    for (let i = aStart; i < aEnd; i++) {
      let before = 0; // lengths[j] of the row before
      for (let j = bStart; j < bEnd; j++) {
        const length = a[i] === b[j] ? before + 1 : 0;
        before = lengths[j + 1];
        lengths[j + 1] = length;
        if (length > best) [bestA, bestB, best] = [i - length + 1, j - length + 1, length];
      }
    }
    if (!best) continue;
    blocks.push([bestA, bestB, best]);
    boxes.push([aStart, bestA, bStart, bestB], [bestA + best, aEnd, bestB + best, bEnd]);
  }
  return blocks;
}

/** How an action and the expert's match: {matched, total, action: pieces, expert: pieces}, null if too long.
    Pieces are [text, whether the other has it], in order. */
function compareTexts(action, expert) {
  const [a, b] = [Array.from(action), Array.from(expert)]; // code points
  const codes = (characters) => Int32Array.from(characters, (character) => character.codePointAt(0));
  const blocks = matchingBlocks(codes(a), codes(b));
  if (!blocks) return null;
  const pieces = (characters, side) => {
    const shared = new Uint8Array(characters.length);
    for (const block of blocks) shared.fill(1, block[side], block[side] + block[2]);
    return joined(characters, shared);
  };
  return {
    matched: blocks.reduce((sum, block) => sum + block[2], 0),
    total: a.length + b.length,
    action: pieces(a, 0),
    expert: pieces(b, 1),
  };
}

/** Neighbours of one kind as one piece. */
function joined(characters, shared) {
  const pieces = [];
  characters.forEach((character, i) => {
    const last = pieces.at(-1);
    if (last && last[1] === Boolean(shared[i])) last[0] += character;
    else pieces.push([character, Boolean(shared[i])]);
  });
  return pieces;
}
