# Selection of ranks among C doubles, for `_percentiles_c`, which tells the theory. Nothing here needs the GIL.

from libc.math cimport INFINITY, floor, sqrt
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef extern from *:
    """
    #include <stdint.h>
    /* The loops of the pass over all values, in a form of which compilers make vector instructions: marks are -1 or 0,
       as wide as the values. Where the C library can choose at load time, a processor with AVX2 uses it (4 values in
       an instruction). */
    #if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
    #define CELERS_WIDE __attribute__((target_clones("avx2", "default")))
    #else
    #define CELERS_WIDE
    #endif
    CELERS_WIDE static int has_nan(const double *x, Py_ssize_t n) {
        int64_t found = 0;
        for (Py_ssize_t i = 0; i < n; i++) found |= x[i] == x[i] ? (int64_t)0 : (int64_t)-1;
        return found != 0;
    }
    CELERS_WIDE static void mark_inside(
        const double *x, Py_ssize_t n, double low, double high, int64_t *marks, int64_t *below, int64_t *inside
    ) {
        int64_t less = 0, in = 0;
        for (Py_ssize_t i = 0; i < n; i++) {
            int64_t mark = (x[i] >= low ? (int64_t)-1 : 0) & (x[i] <= high ? (int64_t)-1 : 0);
            less -= x[i] < low ? (int64_t)-1 : 0;
            in -= mark;
            marks[i] |= mark;
        }
        *below += less;
        *inside += in;
    }
    CELERS_WIDE static void count_equal(
        const double *x, Py_ssize_t n, double value, int64_t *below, int64_t *inside
    ) {
        int64_t less = 0, in = 0;
        for (Py_ssize_t i = 0; i < n; i++) {
            less -= x[i] < value ? (int64_t)-1 : 0;
            in -= x[i] == value ? (int64_t)-1 : 0;
        }
        *below += less;
        *inside += in;
    }
    """
    bint has_nan(const double *x, Py_ssize_t n) nogil
    void mark_inside(
        const double *x, Py_ssize_t n, double low, double high, int64_t *marks, int64_t *below, int64_t *inside
    ) nogil
    void count_equal(const double *x, Py_ssize_t n, double value, int64_t *below, int64_t *inside) nogil

cdef enum:
    SMALL = 24          # below, insertion sort
    BRACKETS = 8        # most ranks for which a sample is taken
    BLOCK = 1024        # values looked at together; they and their marks stay in the first cache
    MISLED = -1         # why a sample did not do
    NO_MEMORY = -2
    NAN_FOUND = -3


cdef void _insertion_sort(double *a, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef double x
    for i in range(low + 1, high + 1):
        x = a[i]
        j = i - 1
        while j >= low and a[j] > x:
            a[j + 1] = a[j]
            j -= 1
        a[j + 1] = x


cdef void _sift(double *a, Py_ssize_t root, Py_ssize_t count) noexcept nogil:
    cdef double x = a[root]
    cdef Py_ssize_t child
    while True:
        child = 2 * root + 1
        if child >= count:
            break
        if child + 1 < count and a[child + 1] > a[child]:
            child += 1
        if a[child] <= x:
            break
        a[root] = a[child]
        root = child
    a[root] = x


cdef void _heap_sort(double *a, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    cdef double x
    for i in range(count // 2 - 1, -1, -1):
        _sift(a, i, count)
    for i in range(count - 1, 0, -1):
        x = a[0]
        a[0] = a[i]
        a[i] = x
        _sift(a, 0, i)


cdef inline void _order(double *a, double *b) noexcept nogil:
    cdef double x
    if b[0] < a[0]:
        x = a[0]
        a[0] = b[0]
        b[0] = x


cdef void _select(
    double *a, Py_ssize_t low, Py_ssize_t high, const Py_ssize_t *ranks, Py_ssize_t count, int depth
) noexcept nogil:
    """Put the right value at each of the ascending `ranks`, all of which lie in low..high."""
    cdef Py_ssize_t i, j, middle, left
    cdef double pivot, x
    while count > 0:
        if high - low < SMALL:
            _insertion_sort(a, low, high)
            return
        if depth == 0:
            _heap_sort(a + low, high - low + 1)
            return
        depth -= 1
        middle = low + (high - low) // 2
        _order(&a[low], &a[middle])
        _order(&a[middle], &a[high])
        _order(&a[low], &a[middle])
        pivot = a[middle]
        # Hoare's partition stops at values equal to the pivot, so that many equal values split evenly.
        i = low - 1
        j = high + 1
        while True:
            i += 1
            while a[i] < pivot:
                i += 1
            j -= 1
            while a[j] > pivot:
                j -= 1
            if i >= j:
                break
            x = a[i]
            a[i] = a[j]
            a[j] = x
        left = 0
        while left < count and ranks[left] <= j:
            left += 1
        if left:
            _select(a, low, j, ranks, left, depth)
        ranks += left
        count -= left
        low = j + 1


cdef struct Bracket:
    double low          # the ranks first..last are expected in low..high
    double high
    Py_ssize_t first
    Py_ssize_t last
    int64_t below       # values below `low`
    int64_t inside      # values in low..high


cdef int _brackets(const double *data, Py_ssize_t n, const Py_ssize_t *ranks, Py_ssize_t count, Bracket *into) noexcept nogil:
    """Guess by a sample between which values the ranks lie; the number of brackets, ascending and apart, or an error."""
    cdef Py_ssize_t size = <Py_ssize_t>sqrt(<double>n) * 12 if n >= 100000 else n // 16
    cdef Py_ssize_t step, i, made = 0
    cdef Py_ssize_t edges[2 * BRACKETS]
    cdef Py_ssize_t ascending[2 * BRACKETS]
    cdef Py_ssize_t at, kept, j
    cdef double share, margin
    cdef uint32_t random = 2463534242
    cdef double *sample = <double *>malloc(size * sizeof(double))
    if sample == NULL:
        return NO_MEMORY
    step = n // size
    for i in range(size):
        # Not each step-th value: data with a period of its own would give a sample of one phase.
        random ^= random << 13
        random ^= random >> 17
        random ^= random << 5
        sample[i] = data[i * step + <Py_ssize_t>(random % <uint32_t>step)]
        if sample[i] != sample[i]:
            free(sample)
            return NAN_FOUND
    for i in range(count):
        share = (<double>ranks[i] + 0.5) / <double>n
        # Four standard deviations of the sample's rank: one miss in 16,000.
        margin = 4.0 * sqrt(share * (1.0 - share) * <double>size) + 1.0
        edges[2 * i] = <Py_ssize_t>floor(share * <double>size - margin)
        edges[2 * i + 1] = <Py_ssize_t>floor(share * <double>size + margin)
    # The edges that lie within the sample, ascending and each once, are found in it by selection.
    kept = 0
    for i in range(2 * count):
        at = edges[i]
        if at < 0 or at >= size:
            continue
        j = kept
        while j > 0 and ascending[j - 1] > at:
            ascending[j] = ascending[j - 1]
            j -= 1
        ascending[j] = at
        kept += 1
    j = 0
    for i in range(kept):
        if j == 0 or ascending[j - 1] != ascending[i]:
            ascending[j] = ascending[i]
            j += 1
    _select(sample, 0, size - 1, ascending, j, 64)
    for i in range(count):
        into[made].low = sample[edges[2 * i]] if edges[2 * i] >= 0 else -INFINITY
        into[made].high = sample[edges[2 * i + 1]] if edges[2 * i + 1] < size else INFINITY
        into[made].first = i
        into[made].last = i
        into[made].below = 0
        into[made].inside = 0
        if made and into[made].low <= into[made - 1].high:
            if into[made].high > into[made - 1].high:
                into[made - 1].high = into[made].high
            into[made - 1].last = i
        else:
            made += 1
    free(sample)
    return <int>made


cdef Py_ssize_t _pick(const double *data, Py_ssize_t n, Bracket *brackets, int count, double *into) noexcept nogil:
    """Count what lies below and inside each bracket, and copy what is inside; how many were copied, or an error."""
    cdef int64_t marks[BLOCK]
    cdef const double *block
    cdef Py_ssize_t start = 0, size, i, picked = 0
    cdef int b
    while start < n:
        block = data + start
        size = min(n - start, <Py_ssize_t>BLOCK)
        if has_nan(block, size):
            return NAN_FOUND
        memset(marks, 0, sizeof(marks))
        for b in range(count):
            if brackets[b].low == brackets[b].high:
                # Many equal values: they are counted, not copied.
                count_equal(block, size, brackets[b].low, &brackets[b].below, &brackets[b].inside)
            else:
                mark_inside(
                    block, size, brackets[b].low, brackets[b].high, marks, &brackets[b].below, &brackets[b].inside
                )
        for i in range(size):
            # Written in any case, kept when marked: no branch to mispredict.
            into[picked] = block[i]
            picked -= marks[i]
        start += size
    return picked


cdef int _narrow(
    const double *data, Py_ssize_t n, const Py_ssize_t *ranks, Py_ssize_t count, double *found
) noexcept nogil:
    """Find the values at the ranks by a sample and one pass; 0, or why not."""
    cdef Bracket brackets[BRACKETS]
    cdef Py_ssize_t local[BRACKETS]
    cdef Py_ssize_t i, picked, before = 0, searched = 0
    cdef double *some
    cdef int made, b
    made = _brackets(data, n, ranks, count, brackets)
    if made < 0:
        return made
    # Pages of it that stay untouched cost nothing; one value more than there can be, as each is written before it
    # is known to count.
    some = <double *>malloc((n + 1) * sizeof(double))
    if some == NULL:
        return NO_MEMORY
    picked = _pick(data, n, brackets, made, some)
    if picked < 0:
        free(some)
        return <int>picked
    for b in range(made):
        for i in range(brackets[b].first, brackets[b].last + 1):
            # Outside: the sample misled, or somebody writes into the buffer meanwhile.
            if not brackets[b].below <= ranks[i] < brackets[b].below + brackets[b].inside:
                free(some)
                return MISLED
            if brackets[b].low == brackets[b].high:
                found[i] = brackets[b].low
                continue
            local[searched] = before + ranks[i] - <Py_ssize_t>brackets[b].below
            searched += 1
        if brackets[b].low != brackets[b].high:
            before += <Py_ssize_t>brackets[b].inside
    _select(some, 0, picked - 1, local, searched, 128)
    searched = 0
    for b in range(made):
        if brackets[b].low != brackets[b].high:
            for i in range(brackets[b].first, brackets[b].last + 1):
                found[i] = some[local[searched]]
                searched += 1
    free(some)
    return 0
