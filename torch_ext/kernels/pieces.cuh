// Numbers of a tensor in pieces of 16 bytes, whatever their type; arithmetic is float32.
//
// A row begins at an element of its tensor, whose own address is a multiple of 16 bytes. Where a row's is one, too, a piece
// is one access; else, and at the ends of a row, its numbers are read and written one by one.

#if ELEMENT_F32
#define EACH 4
#define SIZE 4
#define MINUS_INFINITY 0xff800000u
#else
#define EACH 8
#define SIZE 2
#define MINUS_INFINITY (ELEMENT_F16 ? 0xfc00fc00u : 0xff80ff80u)
#endif
#define LOG2_E 1.44269504088896341f
#define LN_2 0.693147180559945309f

typedef float Numbers[EACH];

DEVICE Chunk chunk_of(u32 word) {
    Chunk chunk;
    UNROLL for (int i = 0; i < 4; i++) chunk.words[i] = word;
    return chunk;
}

DEVICE void unpack_piece(Numbers &to, const Chunk &from) {
    UNROLL for (int i = 0; i < EACH; i++) {
#if ELEMENT_F32
        to[i] = from_bits(from.words[i]);
#else
        to[i] = unpack(from.words[i / 2], i % 2);
#endif
    }
}

DEVICE Chunk pack_piece(const Numbers &from) {
    Chunk chunk;
    UNROLL for (int i = 0; i < 4; i++) {
#if ELEMENT_F32
        chunk.words[i] = to_bits(from[i]);
#else
        chunk.words[i] = pack(from[2 * i], from[2 * i + 1]);
#endif
    }
    return chunk;
}

// One number at an address, rounded.
DEVICE float load_number(const char *from) {
#if ELEMENT_F32
    return load_float((const float *)from);
#else
    return unpack(load_u16(from), 0);
#endif
}
DEVICE void store_number(char *to, float value) {
#if ELEMENT_F32
    store_float((float *)to, value);
#else
    store_u16(to, (u16)pack(value, 0.0f));
#endif
}

// The piece of a row that begins at element `at`, which may lie before the row's first; what lies outside of the row is
// `outside`. `whole` says that the piece's address is a multiple of 16 bytes.
// Places in a row are counted in 32 bits where they fit.
template <class Index> DEVICE Chunk load_piece(const char *row, Index at, Index length, bool whole, u32 outside) {
    if (whole && at >= 0 && at + EACH <= length) return load_chunk(row + SIZE * at);
    Chunk chunk = chunk_of(outside);
    UNROLL for (int i = 0; i < EACH; i++) {
        if (at + i < 0 || at + i >= length) continue;
        const char *from = row + SIZE * (at + i);
#if ELEMENT_F32
        chunk.words[i] = to_bits(load_float((const float *)from));
#else
        u32 bits = load_u16(from), kept = i % 2 ? 0x0000ffffu : 0xffff0000u;
        chunk.words[i / 2] = (chunk.words[i / 2] & kept) | (i % 2 ? bits << 16 : bits);
#endif
    }
    return chunk;
}

template <class Index> DEVICE void store_piece(char *row, Index at, Index length, bool whole, const Chunk &chunk) {
    if (whole && at >= 0 && at + EACH <= length) {
        store_chunk(row + SIZE * at, chunk);
        return;
    }
    UNROLL for (int i = 0; i < EACH; i++) {
        if (at + i < 0 || at + i >= length) continue;
        char *to = row + SIZE * (at + i);
#if ELEMENT_F32
        store_float((float *)to, from_bits(chunk.words[i]));
#else
        store_u16(to, (u16)(chunk.words[i / 2] >> 16 * (i % 2)));
#endif
    }
}

// As many float32 numbers as a piece has elements.
DEVICE void store_floats(float *row, int at, int length, bool whole, const Numbers &numbers) {
    UNROLL for (int i = 0; i < EACH; i += 4) {
        if (whole && at + i + 4 <= length) {
            Chunk chunk;
            UNROLL for (int j = 0; j < 4; j++) chunk.words[j] = to_bits(numbers[i + j]);
            store_chunk(row + at + i, chunk);
            continue;
        }
        UNROLL for (int j = 0; j < 4; j++)
            if (at + i + j < length) store_float(row + at + i + j, numbers[i + j]);
    }
}
