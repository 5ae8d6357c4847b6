# How the bytes of a value become the text of its literal.

cdef extern from *:
    """
    /* Arithmetic instead of a table: the compiler turns the loop into vector instructions. */
    static inline void celers_hex(char *restrict to, const unsigned char *restrict from, Py_ssize_t size) {
        for (Py_ssize_t i = 0; i < size; i++) {
            unsigned char high = from[i] >> 4, low = from[i] & 15;
            to[2 * i] = (char)(high + '0' + (high > 9 ? 'a' - '0' - 10 : 0));
            to[2 * i + 1] = (char)(low + '0' + (low > 9 ? 'a' - '0' - 10 : 0));
        }
    }

    /* Whether all bytes are printable ASCII other than quote and backslash. */
    static inline int celers_plain(const char *text, Py_ssize_t size) {
        int special = 0;
        for (Py_ssize_t i = 0; i < size; i++) {
            unsigned char c = (unsigned char)text[i];
            special |= (c < 0x20) | (c > 0x7e) | (c == '\\'') | (c == '\\\\');
        }
        return !special;
    }

    /* The lowest byte that is zero in `x` has its top bit set in the result, and no lower bit is set. */
    #define CELERS_ZERO(x) (((x) - 0x0101010101010101ULL) & ~(x) & 0x8080808080808080ULL)
    #if defined(__GNUC__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define CELERS_FIRST(mask) (__builtin_ctzll(mask) >> 3)
    #endif

    /* Copy with quotes, and backslashes unless they are ordinary, doubled; returns the end. Sixteen bytes are
       copied at a time, of which those up to the first special one count; `to` must have room for twice the size. */
    static inline char *celers_escape(char *to, const char *from, Py_ssize_t size, int backslashes) {
        const char other = backslashes ? '\\\\' : '\\'';
        const char *end = from + size;
    #ifdef CELERS_FIRST
        const unsigned long long quotes = 0x2727272727272727ULL;
        const unsigned long long others = backslashes ? 0x5C5C5C5C5C5C5C5CULL : quotes;
        while (end - from >= 16) {
            unsigned long long words[2], first, second;
            int length;
            memcpy(words, from, 16);
            memcpy(to, words, 16);
            first = CELERS_ZERO(words[0] ^ quotes) | CELERS_ZERO(words[0] ^ others);
            second = CELERS_ZERO(words[1] ^ quotes) | CELERS_ZERO(words[1] ^ others);
            if ((first | second) == 0) {
                from += 16;
                to += 16;
                continue;
            }
            length = first ? CELERS_FIRST(first) + 1 : CELERS_FIRST(second) + 9;
            from += length;
            to += length;
            *to++ = from[-1];
        }
    #endif
        while (from < end) {
            char c = *from++;
            *to++ = c;
            if (c == '\\'' || c == other) *to++ = c;
        }
        return to;
    }
    """
    void celers_hex(char *to, const unsigned char *data, Py_ssize_t size) noexcept nogil
    bint celers_plain(const char *text, Py_ssize_t size) noexcept nogil
    char *celers_escape(char *to, const char *data, Py_ssize_t size, bint backslashes) noexcept nogil
