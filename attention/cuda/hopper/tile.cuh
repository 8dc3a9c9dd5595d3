// Tiles of 16-bit elements in shared memory as the copy engine writes them and wgmma reads them: boxes of 64 columns, a row of
// a box 128 bytes, chunks of 16 bytes exchanged by an exclusive or with the three bits of the address above a row (128-byte
// swizzle). A box begins at a multiple of 1024 bytes; those of a tile lie one after the other.

// Boxes of a tile of the whole head size.
#define BOXES (HEAD_DIM / 64)
#define BOX_BYTES(rows) ((rows) * 128)
#define TILE_BYTES(rows) (BOXES * BOX_BYTES(rows))

// Descriptors (PTX ISA, "Matrix Descriptor Format"): addresses and distances in units of 16 bytes, 128-byte swizzle in bit 62.
// Eight rows of a box are 1024 bytes; `apart` is the distance of boxes side by side, for factors whose lines run along the
// result and that are wider than a box.
DEVICE u64 descriptor(u32 address, u32 apart) {
    return (u64)(address >> 4 & 0x3fff) | (u64)(apart >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
// Of 16 columns further, for a tile of `rows` whose lines run along the sum.
template <int ROWS> DEVICE u64 columns_on(u64 tile, int step) {
    return tile + (step / 4 * BOX_BYTES(ROWS) + step % 4 * 32 >> 4);
}
// Of 16 rows further, for one whose lines run along the result.
DEVICE u64 rows_on(u64 tile, int step) { return tile + (step * 16 * 128 >> 4); }

// A place in a ring of stages, a power of two of them, and the parity of its round: from how often it was advanced.
template <int LENGTH> struct Ring {
    u32 count;
    MEMBER u32 stage() const { return count % LENGTH; }
    MEMBER u32 stage_before() const { return (count - 1) % LENGTH; }
    MEMBER u32 parity() const { return count / LENGTH % 2; }
    MEMBER void advance() { count++; }
};

// Weights or their gradients, rounded: the left factor of the product that they go into.
template <int N> DEVICE void pack_factor(u32 (&factor)[N / 2][4], const float (&values)[N][4]) {
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int half = 0; half < 2; half++)
            factor[n / 2][n % 2 * 2 + half] = pack(values[n][2 * half], values[n][2 * half + 1]);
}

// Puts a packed result of 64 rows, the warpgroup's part of a tile of ROWS, into boxes, from where wgmma and the copy engine
// take it; `to` is the tile's beginning, `first` the first of the 64 rows.
template <int ROWS, int N> DEVICE void store_factor(u32 to, int first, const u32 (&factor)[N][4]) {
    int lane = thread_index() % 32, row = first + thread_index() % WARPGROUP / 32 * 16 + lane / 4;
    u32 at = to + row * 128 + row % 8 * 16 + lane % 4 * 4;
    UNROLL for (int n = 0; n < 2 * N; n++)
        UNROLL for (int half = 0; half < 2; half++)
            store_shared_word((at ^ n % 8 * 16) + n / 8 * BOX_BYTES(ROWS) + half * 1024, factor[n / 2][n % 2 * 2 + half]);
}

template <int N> DEVICE void clear(float (&values)[N][4]) {
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int i = 0; i < 4; i++) values[n][i] = 0.0f;
}
