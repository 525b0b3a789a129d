/* How many elements two sequences share under difflib's rule: exactly, and in bounded time.
 *
 * The claim
 *     matched_pairs([a], [b]) == [M], where
 *     M = sum(block.size for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()),
 *     in O(n^1.5 log n) time and O(n log n) memory, n being the longer length; difflib's worst case is
 *     cubic. (The time is an expected one, but only as far as a hash table's is.)
 *
 * difflib's rule
 *     Find the longest block common to both sequences; of several, the one that starts first in a, and of
 *     those the one that starts first in b. Take it. Then do the same in the two boxes that it leaves: what
 *     lies before it in both sequences, and what lies after it in both.
 *
 * Why one sweep takes all the blocks of one length (exact)
 *     Let L be the length of the longest blocks in a box. The rule takes the first of them in a. In the box
 *     before it no block of length L is left, or that one would have been first. In the box after it the
 *     rule starts anew, and L is still the most there can be. So one pass over a, from left to right, takes
 *     every block of length L that the rule takes, and the boxes between them hold blocks of at most L - 1.
 *
 * How a wide box finds its longest blocks (exact: nothing rests on a hash value)
 *     Every run of 2^k elements gets a name: the same number for the same run, in a and in b, from the
 *     names of its two halves (the doubling of Karp, Miller and Rosenberg). A run of any length L, 2^k <=
 *     L < 2^(k+1), is covered by two runs of 2^k, so their two names stand for it. The hash table that turns
 *     pairs of names into names compares them whole. The longest k that a box still shares is looked for
 *     from above; then L is searched by bisection, each time only among the runs that were still shared the
 *     time before.
 *
 * How a narrow box does (at most 64 elements of b)
 *     With bits: bit j of word i says that a run ends at a[i] and b[j]; one shift and one AND per word make
 *     all runs longer by one element.
 *
 * Why it is bounded
 *     The boxes at one depth do not overlap, and a wide box costs O(its size x log L), so a depth costs
 *     O(n log n). On a path from a box to a box inside it L falls each time by one at least, and each L is
 *     the length of a block that the others on the path do not overlap: those lengths add up to n at most,
 *     so the path has at most sqrt(2n) boxes. A narrow box costs L word operations per element of a; the L
 *     of the narrow boxes on a path add up to 64 at most.
 *
 * No data outlives a call. All memory is taken before the comparison starts, which runs without the GIL.
 */
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define NO_NAME 0 /* of a run that only one side has; names are positive */
#define NONE (-1)
#define WORD_BITS 64
#define MAX_ELEMENTS (1 << 24) /* of one sequence: every count and mark below stays within 32 bits */
#define MAX_LEVELS 25          /* of names: for runs of 2^0 ... 2^24 elements */

/* A part of a and a part of b that are matched with each other only. */
typedef struct {
    int32_t a_start, a_end;
    int32_t b_start, b_end;
    int32_t longest; /* no common block in here is longer */
} Box;

/* Runs of one length within one box: those that both sides have, in ascending order of position. */
typedef struct {
    int32_t *position;
    int32_t *group; /* equal runs have equal groups, on both sides */
    int32_t count;
} Runs;

/* One of the two sequences. */
typedef struct {
    const uint32_t *elements;
    int32_t length;
    int32_t *names[MAX_LEVELS]; /* names[k][p] is the name of the run of 2^k elements from p, or NO_NAME */
    Runs runs;
    Runs longer;    /* those of runs that may be longer still: takes their place if any is */
    uint64_t *keys; /* what tells the runs in longer apart */
} Side;

/* The comparison of two sequences, and its memory. */
typedef struct {
    Side a, b;
    int levels; /* how many levels have names that both sequences share */

    Box *boxes; /* a stack; they do not overlap, so there are never more of them than elements */
    int32_t box_count;

    /* The hash table from keys to names. */
    int32_t *slots;
    uint64_t *key_of_name;
    uint8_t *name_in_a; /* by name: whether a has it too */

    /* Wide boxes. */
    uint32_t *mark; /* by name: one of the last two marks, if the box that is looked at has it */
    uint32_t last_mark;
    int32_t *first_run; /* by group: the first run of b that is still to come */
    int32_t *next_run;  /* by run of b: the next one of the same group */

    /* Narrow boxes. */
    uint64_t *columns;                    /* by name of an element: where the box has it in b */
    uint64_t *equal, *ends, *longer_ends; /* by element of a: where runs of 1, L and L + 1 end in b */

    /* All the arrays above. */
    void *arrays[2 * MAX_LEVELS + 32];
    int array_count;
    int failed; /* there was not enough memory for one of them */
} Matcher;

static int32_t smaller(int32_t x, int32_t y)
{
    return x < y ? x : y;
}

/* ---------------------------------------------------------------------------------------------- names */

/* An open-addressing hash table from keys to the names 1, 2, 3 ...; at most a quarter full. */
typedef struct {
    int32_t *slots; /* names, or NO_NAME */
    uint64_t *key_of_name;
    uint32_t mask;
    int shift;
} Table;

static int bits_for(int32_t count)
{
    int bits = 4;
    while (((int64_t)1 << bits) < 4 * (int64_t)count)
        bits++;
    return bits;
}

static Table empty_table(const Matcher *m, int32_t count)
{
    const int bits = bits_for(count);
    memset(m->slots, NO_NAME, sizeof(*m->slots) << bits);
    return (Table){m->slots, m->key_of_name, ((uint32_t)1 << bits) - 1, 64 - bits};
}

/* The slot that holds the name of key, or the empty one where it belongs. */
static uint32_t find_slot(Table table, uint64_t key)
{
    uint32_t slot = (uint32_t)((key * 0x9E3779B97F4A7C15u) >> table.shift);
    while (table.slots[slot] != NO_NAME && table.key_of_name[table.slots[slot]] != key)
        slot = (slot + 1) & table.mask;
    return slot;
}

/* Gives equal keys of b equal names; returns how many names that took. */
static int32_t name_keys(Table table, const uint64_t *keys, int32_t count, int32_t *names)
{
    int32_t named = 0;
    for (int32_t r = 0; r < count; r++) {
        const uint64_t key = keys[r];
        const uint32_t slot = find_slot(table, key);
        int32_t name = table.slots[slot];
        if (name == NO_NAME) {
            name = table.slots[slot] = ++named;
            table.key_of_name[named] = key;
        }
        names[r] = name;
    }
    return named;
}

/* Gives the keys of a the names that they have in b, and notes these. */
static void look_up_keys(Table table, const uint64_t *keys, int32_t count, int32_t *names,
                         uint8_t *name_in_a)
{
    for (int32_t r = 0; r < count; r++) {
        const int32_t name = table.slots[find_slot(table, keys[r])];
        names[r] = name;
        name_in_a[name] = 1;
    }
    name_in_a[NO_NAME] = 0;
}

static void drop_unshared(Runs *runs, const uint8_t *name_is_shared)
{
    int32_t *position = runs->position, *group = runs->group;
    const int32_t count = runs->count;
    int32_t kept = 0;
    for (int32_t r = 0; r < count; r++) {
        const int32_t name = group[r];
        position[kept] = position[r];
        group[kept] = name;
        kept += name_is_shared[name];
    }
    runs->count = kept;
}

/* Groups the longer runs by their keys and drops those that only one side has; says whether any stays. */
static int group_longer_runs(Matcher *m)
{
    Runs *a = &m->a.longer, *b = &m->b.longer;
    const Table table = empty_table(m, b->count);
    const int32_t named = name_keys(table, m->b.keys, b->count, b->group);
    memset(m->name_in_a, 0, (size_t)named + 1);
    look_up_keys(table, m->a.keys, a->count, a->group, m->name_in_a);
    drop_unshared(a, m->name_in_a);
    drop_unshared(b, m->name_in_a);
    return a->count > 0;
}

static void use_longer_runs(Side *side)
{
    const Runs shorter = side->runs;
    side->runs = side->longer;
    side->longer = shorter;
}

/* Puts into longer those of runs that may go on to this length: two named runs of 2^level cover it. */
static void extend_runs(Side *side, int32_t end, int level, int32_t length)
{
    const int32_t offset = length - (1 << level);
    const int32_t *names = side->names[level], *position = side->runs.position;
    int32_t *longer_position = side->longer.position;
    uint64_t *keys = side->keys;
    const int32_t count = side->runs.count;
    int32_t kept = 0;
    for (int32_t r = 0; r < count && position[r] + length <= end; r++) {
        const int32_t p = position[r];
        const int32_t second = names[p + offset];
        longer_position[kept] = p;
        keys[kept] = (uint64_t)names[p] << 32 | (uint32_t)second;
        kept += second != NO_NAME;
    }
    side->longer.count = kept;
}

/* Keeps of the runs those that both sides of the box still have at this length; if none, keeps all. */
static int lengthen_runs(Matcher *m, const Box *box, int level, int32_t length)
{
    extend_runs(&m->a, box->a_end, level, length);
    extend_runs(&m->b, box->b_end, level, length);
    if (!group_longer_runs(m))
        return 0;
    use_longer_runs(&m->a);
    use_longer_runs(&m->b);
    return 1;
}

static void store_names(Side *side, int level)
{
    memset(side->names[level], NO_NAME, sizeof(*side->names[level]) * (size_t)side->length);
    for (int32_t r = 0; r < side->runs.count; r++)
        side->names[level][side->runs.position[r]] = side->runs.group[r];
}

static void list_elements(Side *side)
{
    side->longer.count = side->length;
    for (int32_t p = 0; p < side->length; p++) {
        side->longer.position[p] = p;
        side->keys[p] = side->elements[p];
    }
}

/* Names the elements that both sequences have. */
static void name_elements(Matcher *m)
{
    list_elements(&m->a);
    list_elements(&m->b);
    m->levels = group_longer_runs(m);
    use_longer_runs(&m->a);
    use_longer_runs(&m->b);
    store_names(&m->a, 0);
    store_names(&m->b, 0);
}

/* Names the runs of 2, 4, 8 ... elements, up to the longest that both sequences have. */
static void name_longer_runs(Matcher *m, const Box *whole)
{
    while (m->levels > 0 && (1 << m->levels) <= whole->longest) {
        const int level = m->levels;
        if (!lengthen_runs(m, whole, level - 1, 1 << level))
            return;
        store_names(&m->a, level);
        store_names(&m->b, level);
        m->levels++;
    }
}

/* ---------------------------------------------------------------------------------------------- boxes */

static void push_box(Matcher *m, Box box)
{
    box.longest = smaller(box.longest, smaller(box.a_end - box.a_start, box.b_end - box.b_start));
    if (box.longest > 0)
        m->boxes[m->box_count++] = box;
}

/* Takes the block of that length at a[i] and b[j], the first that is left in rest: what lies before it becomes a
 * box of its own, and rest what lies after it. */
static void take_block(Matcher *m, Box *rest, int32_t i, int32_t j, int32_t length)
{
    push_box(m, (Box){rest->a_start, i, rest->b_start, j, length - 1});
    rest->a_start = i + length;
    rest->b_start = j + length;
}

/* ----------------------------------------------------------------------------------------- wide boxes */

/* Puts the runs of 2^level elements between start and end that bear a mark, or a later one, into runs. */
static void collect_marked_runs(const Matcher *m, Side *side, int32_t start, int32_t end, int level,
                                uint32_t mark)
{
    const int32_t *names = side->names[level];
    Runs *runs = &side->runs;
    int32_t count = 0;
    for (int32_t p = start; p + (1 << level) <= end; p++) {
        runs->position[count] = p;
        runs->group[count] = names[p];
        count += m->mark[names[p]] >= mark;
    }
    runs->count = count;
}

/* Collects the runs of 2^level elements that both sides of the box have; says whether there are any. */
static int collect_shared_runs(Matcher *m, const Box *box, int level)
{
    const int32_t *b_names = m->b.names[level];
    const uint32_t in_b = m->last_mark + 1, in_both = m->last_mark + 2;
    m->last_mark += 2;
    for (int32_t p = box->b_start; p + (1 << level) <= box->b_end; p++)
        m->mark[b_names[p]] = in_b;
    m->mark[NO_NAME] = 0;
    collect_marked_runs(m, &m->a, box->a_start, box->a_end, level, in_b);
    if (m->a.runs.count == 0)
        return 0;
    for (int32_t r = 0; r < m->a.runs.count; r++)
        m->mark[m->a.runs.group[r]] = in_both;
    collect_marked_runs(m, &m->b, box->b_start, box->b_end, level, in_both);
    return 1;
}

/* Collects the longest runs that both sides of the box have; returns their length, 0 if there are none. */
static int32_t collect_longest_runs(Matcher *m, const Box *box)
{
    int level = m->levels - 1;
    while (level >= 0 && ((1 << level) > box->longest || !collect_shared_runs(m, box, level)))
        level--;
    if (level < 0)
        return 0;
    int32_t length = 1 << level; /* has shared runs; more than limit has none */
    int32_t limit = smaller(box->longest, (2 << level) - 1);
    while (length < limit) {
        const int32_t middle = length + (limit - length + 1) / 2;
        if (lengthen_runs(m, box, level, middle))
            length = middle;
        else
            limit = middle - 1;
    }
    return length;
}

/* Chains the runs of b that are equal, in ascending order, from first_run[group]. */
static void chain_runs(Matcher *m)
{
    const Runs *b = &m->b.runs;
    for (int32_t r = 0; r < b->count; r++)
        m->first_run[b->group[r]] = NONE;
    for (int32_t r = b->count - 1; r >= 0; r--) {
        m->next_run[r] = m->first_run[b->group[r]];
        m->first_run[b->group[r]] = r;
    }
}

/* The sweep: takes all blocks of the longest length, and leaves the boxes between them for later. */
static int32_t match_wide_box(Matcher *m, const Box *box)
{
    const int32_t length = collect_longest_runs(m, box);
    if (length == 0)
        return 0;
    chain_runs(m);
    const Runs *a = &m->a.runs, *b = &m->b.runs;
    Box rest = *box;
    int32_t matched = 0;
    rest.longest = length - 1;
    for (int32_t r = 0; r < a->count; r++) {
        if (a->position[r] < rest.a_start)
            continue;
        int32_t *first = &m->first_run[a->group[r]];
        while (*first != NONE && b->position[*first] < rest.b_start)
            *first = m->next_run[*first]; /* b_start only grows: what is passed is never needed again */
        if (*first == NONE)
            continue;
        const int32_t i = a->position[r], j = b->position[*first];
        take_block(m, &rest, i, j, length);
        matched += length;
    }
    push_box(m, rest);
    return matched;
}

/* --------------------------------------------------------------------------------------- narrow boxes */

static int lowest_bit(uint64_t word)
{
#if defined(__GNUC__)
    return __builtin_ctzll(word);
#else
    int bit = 0;
    for (int step = 32; step > 0; step /= 2)
        if ((word & (((uint64_t)1 << step) - 1)) == 0) {
            word >>= step;
            bit += step;
        }
    return bit;
#endif
}

/* Fills m->equal: bit j of word i says that element i of the box in a equals element j of the box in b. */
static void compare_elements(Matcher *m, const Box *box)
{
    const int32_t *a_names = m->a.names[0], *b_names = m->b.names[0];
    for (int32_t p = box->b_start; p < box->b_end; p++)
        m->columns[b_names[p]] |= (uint64_t)1 << (p - box->b_start);
    m->columns[NO_NAME] = 0;
    for (int32_t p = box->a_start; p < box->a_end; p++)
        m->equal[p - box->a_start] = m->columns[a_names[p]];
    for (int32_t p = box->b_start; p < box->b_end; p++)
        m->columns[b_names[p]] = 0;
}

/* From where runs of some length end to where those longer by one element do; says whether there are any. */
static int lengthen_ends(const uint64_t *equal, const uint64_t *ends, uint64_t *longer_ends, int32_t height)
{
    uint64_t any = 0;
    longer_ends[0] = 0;
    for (int32_t i = 1; i < height; i++) {
        longer_ends[i] = ends[i - 1] << 1 & equal[i];
        any |= longer_ends[i];
    }
    return any != 0;
}

/* Leaves in m->ends where the longest common runs of the box end, and returns their length; 0 if none. */
static int32_t find_longest_ends(Matcher *m, int32_t height)
{
    int32_t length = 0;
    int found = 0;
    memcpy(m->longer_ends, m->equal, sizeof(*m->equal) * (size_t)height);
    for (int32_t i = 0; i < height; i++)
        found |= m->equal[i] != 0;
    while (found) {
        uint64_t *const spare = m->ends;
        m->ends = m->longer_ends;
        m->longer_ends = spare;
        length++;
        found = lengthen_ends(m->equal, m->ends, m->longer_ends, height);
    }
    return length;
}

/* The same sweep as in match_wide_box, on words instead of runs. */
static int32_t match_narrow_box(Matcher *m, const Box *box)
{
    compare_elements(m, box);
    const int32_t length = find_longest_ends(m, box->a_end - box->a_start);
    if (length == 0)
        return 0;
    Box rest = *box;
    int32_t matched = 0;
    rest.longest = length - 1;
    for (int32_t i = box->a_start; i + length <= box->a_end && rest.b_start + length <= box->b_end; i++) {
        const uint64_t ends = m->ends[i + length - 1 - box->a_start];
        const uint64_t usable = ends & UINT64_MAX << (rest.b_start + length - 1 - box->b_start);
        if (i < rest.a_start || !usable)
            continue;
        const int32_t j = box->b_start + lowest_bit(usable) - length + 1;
        take_block(m, &rest, i, j, length);
        matched += length;
    }
    push_box(m, rest);
    return matched;
}

/* --------------------------------------------------------------------------------------------- matcher */

static int32_t count_matched(Matcher *m)
{
    const int32_t a_length = m->a.length, b_length = m->b.length;
    const size_t a_bytes = sizeof(*m->a.elements) * (size_t)a_length;
    if (a_length == b_length && memcmp(m->a.elements, m->b.elements, a_bytes) == 0)
        return a_length;
    const Box whole = {0, a_length, 0, b_length, smaller(a_length, b_length)};
    name_elements(m);
    if (b_length > WORD_BITS)
        name_longer_runs(m, &whole);
    memset(m->mark, 0, sizeof(*m->mark) * ((size_t)b_length + 1));
    memset(m->columns, 0, sizeof(*m->columns) * ((size_t)b_length + 1));
    m->last_mark = 0;

    int32_t matched = 0;
    push_box(m, whole);
    while (m->box_count > 0) {
        const Box box = m->boxes[--m->box_count];
        if (box.b_end - box.b_start <= WORD_BITS)
            matched += match_narrow_box(m, &box);
        else
            matched += match_wide_box(m, &box);
    }
    return matched;
}

/* ---------------------------------------------------------------------------------------------- memory */

/* An array that free_matcher frees; NULL, and m->failed, where memory or the range of size_t ends.
 * It has one element more than count, because names count from 1. */
static void *new_array(Matcher *m, size_t count, size_t size)
{
    void *array = NULL;
    if (!m->failed && count < SIZE_MAX / size)
        array = PyMem_Malloc((count + 1) * size);
    if (array == NULL)
        m->failed = 1;
    else
        m->arrays[m->array_count++] = array;
    return array;
}

static void new_side(Matcher *m, Side *side, size_t length, int levels)
{
    for (int level = 0; level < levels; level++)
        side->names[level] = new_array(m, length, sizeof(int32_t));
    side->runs.position = new_array(m, length, sizeof(int32_t));
    side->runs.group = new_array(m, length, sizeof(int32_t));
    side->longer.position = new_array(m, length, sizeof(int32_t));
    side->longer.group = new_array(m, length, sizeof(int32_t));
    side->keys = new_array(m, length, sizeof(uint64_t));
}

/* Takes the memory for any pair of sequences up to these lengths; says whether there was enough. */
static int new_matcher(Matcher *m, int32_t a_length, int32_t b_length)
{
    const int32_t shorter = smaller(a_length, b_length);
    const size_t a_size = (size_t)a_length, b_size = (size_t)b_length;
    int levels = 1;
    while ((1 << levels) <= shorter)
        levels++;
    memset(m, 0, sizeof(*m));
    new_side(m, &m->a, a_size, levels);
    new_side(m, &m->b, b_size, levels);
    m->boxes = new_array(m, (size_t)shorter, sizeof(Box));
    m->slots = new_array(m, (size_t)1 << bits_for(b_length), sizeof(int32_t));
    m->key_of_name = new_array(m, b_size, sizeof(uint64_t));
    m->name_in_a = new_array(m, b_size, sizeof(uint8_t));
    m->mark = new_array(m, b_size, sizeof(uint32_t));
    m->first_run = new_array(m, b_size, sizeof(int32_t));
    m->next_run = new_array(m, b_size, sizeof(int32_t));
    m->columns = new_array(m, b_size, sizeof(uint64_t));
    m->equal = new_array(m, a_size, sizeof(uint64_t));
    m->ends = new_array(m, a_size, sizeof(uint64_t));
    m->longer_ends = new_array(m, a_size, sizeof(uint64_t));
    return !m->failed;
}

static void free_matcher(Matcher *m)
{
    while (m->array_count > 0)
        PyMem_Free(m->arrays[--m->array_count]);
}

/* ---------------------------------------------------------------------------------------------- Python */

/* One sequence as numbers: the code points of a string, or token ids. */
typedef struct {
    PyObject *source;
    uint32_t *elements;
    int32_t length;
    int shares_elements; /* with the sequence before it: one expert, many actions */
} Sequence;

typedef struct {
    Py_ssize_t count;
    Sequence *actions, *experts;
    int32_t *matched;
} Batch;

static int read_string(PyObject *source, Sequence *sequence)
{
    const Py_ssize_t length = sequence->length;
    return PyUnicode_AsUCS4(source, (Py_UCS4 *)sequence->elements, length + 1, 1) == NULL ? -1 : 0;
}

static int read_token_id(PyObject *item, uint32_t *element)
{
    if (!PyLong_Check(item)) {
        PyErr_SetString(PyExc_TypeError, "a sequence to compare must hold token ids (int) only");
        return -1;
    }
    const long long id = PyLong_AsLongLong(item);
    if (id < 0 || id > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a token id must be from 0 to 2**32 - 1");
        return -1;
    }
    *element = (uint32_t)id;
    return 0;
}

static int read_token_ids(PyObject *source, Sequence *sequence)
{
    for (int32_t p = 0; p < sequence->length; p++) {
        PyObject *item = PySequence_GetItem(source, p);
        if (item == NULL)
            return -1;
        const int read = read_token_id(item, &sequence->elements[p]);
        Py_DECREF(item);
        if (read < 0)
            return -1;
    }
    return 0;
}

static int read_sequence(PyObject *source, Sequence *sequence)
{
    const int is_string = PyUnicode_Check(source);
    if (!is_string && !PyList_Check(source) && !PyTuple_Check(source)) {
        PyErr_SetString(PyExc_TypeError, "only strings, and lists and tuples of token ids, can be compared");
        return -1;
    }
    const Py_ssize_t length = is_string ? PyUnicode_GetLength(source) : PySequence_Size(source);
    if (length < 0)
        return -1;
    if (length > MAX_ELEMENTS) {
        PyErr_SetString(PyExc_OverflowError, "a sequence to compare has more than 2**24 elements");
        return -1;
    }
    sequence->source = source;
    sequence->length = (int32_t)length;
    sequence->elements = PyMem_Malloc(((size_t)length + 1) * sizeof(uint32_t));
    if (sequence->elements == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return is_string ? read_string(source, sequence) : read_token_ids(source, sequence);
}

/* What was read is freed by free_sequences, also after an error. */
static int read_sequences(PyObject *tuple, Sequence *sequences, Py_ssize_t count)
{
    for (Py_ssize_t k = 0; k < count; k++) {
        PyObject *source = PyTuple_GetItem(tuple, k);
        if (k > 0 && source == sequences[k - 1].source) {
            sequences[k] = sequences[k - 1];
            sequences[k].shares_elements = 1;
        } else if (read_sequence(source, &sequences[k]) < 0) {
            return -1;
        }
    }
    return 0;
}

static void free_sequences(Sequence *sequences, Py_ssize_t count)
{
    for (Py_ssize_t k = 0; sequences != NULL && k < count; k++)
        if (!sequences[k].shares_elements)
            PyMem_Free(sequences[k].elements);
    PyMem_Free(sequences);
}

static int read_batch(Batch *batch, PyObject *actions, PyObject *experts)
{
    const size_t count = (size_t)batch->count;
    batch->actions = PyMem_Calloc(count + 1, sizeof(Sequence));
    batch->experts = PyMem_Calloc(count + 1, sizeof(Sequence));
    batch->matched = PyMem_Calloc(count + 1, sizeof(int32_t));
    if (batch->actions == NULL || batch->experts == NULL || batch->matched == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (read_sequences(actions, batch->actions, batch->count) < 0)
        return -1;
    return read_sequences(experts, batch->experts, batch->count);
}

static void free_batch(Batch *batch)
{
    free_sequences(batch->actions, batch->count);
    free_sequences(batch->experts, batch->count);
    PyMem_Free(batch->matched);
}

static int32_t longest_of(const Sequence *sequences, Py_ssize_t count)
{
    int32_t longest = 0;
    for (Py_ssize_t k = 0; k < count; k++)
        if (sequences[k].length > longest)
            longest = sequences[k].length;
    return longest;
}

static int match_batch(Batch *batch)
{
    Matcher m;
    const int32_t a_longest = longest_of(batch->actions, batch->count);
    const int32_t b_longest = longest_of(batch->experts, batch->count);
    if (!new_matcher(&m, a_longest, b_longest)) {
        free_matcher(&m);
        PyErr_NoMemory();
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t k = 0; k < batch->count; k++) {
        m.a.elements = batch->actions[k].elements;
        m.a.length = batch->actions[k].length;
        m.b.elements = batch->experts[k].elements;
        m.b.length = batch->experts[k].length;
        batch->matched[k] = count_matched(&m);
    }
    Py_END_ALLOW_THREADS
    free_matcher(&m);
    return 0;
}

static PyObject *list_of_matched(const Batch *batch)
{
    PyObject *list = PyList_New(batch->count);
    for (Py_ssize_t k = 0; list != NULL && k < batch->count; k++) {
        PyObject *matched = PyLong_FromLong(batch->matched[k]);
        if (matched == NULL || PyList_SetItem(list, k, matched) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *match_tuples(PyObject *actions, PyObject *experts)
{
    PyObject *result = NULL;
    Batch batch = {PyTuple_Size(actions), NULL, NULL, NULL};
    if (PyTuple_Size(experts) != batch.count) {
        PyErr_SetString(PyExc_ValueError, "matched_pairs needs as many experts as actions");
        return NULL;
    }
    if (read_batch(&batch, actions, experts) == 0 && match_batch(&batch) == 0)
        result = list_of_matched(&batch);
    free_batch(&batch);
    return result;
}

/* Works on copies of the two lists: whatever else runs meanwhile, their items stay. */
static PyObject *matched_pairs(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *actions, *experts, *result = NULL;
    if (!PyArg_ParseTuple(arguments, "O!O!", &PyList_Type, &actions, &PyList_Type, &experts))
        return NULL;
    PyObject *action_tuple = PyList_AsTuple(actions);
    PyObject *expert_tuple = PyList_AsTuple(experts);
    if (action_tuple != NULL && expert_tuple != NULL)
        result = match_tuples(action_tuple, expert_tuple);
    Py_XDECREF(action_tuple);
    Py_XDECREF(expert_tuple);
    return result;
}

PyDoc_STRVAR(matched_pairs_doc,
             "matched_pairs(actions, experts, /)\n--\n\n"
             "Matched elements of each pair of two lists of equal length; runs without the GIL.");

static PyMethodDef methods[] = {
    {"matched_pairs", matched_pairs, METH_VARARGS, matched_pairs_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    "srl.rewards.similarity._matcher",
    "The C implementation of srl.rewards.similarity; its source explains the algorithm.",
    0,
    methods,
    slots,
    NULL,
    NULL,
    NULL,
};

PyMODINIT_FUNC PyInit__matcher(void)
{
    return PyModuleDef_Init(&module_definition);
}
