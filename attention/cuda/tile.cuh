// Tiles of 16-bit elements in shared memory: rows of HEAD_DIM elements in chunks of 16 bytes, chunks of a row exchanged so
// that eight rows of one column of chunks lie in eight different groups of banks.

#define CHUNKS (HEAD_DIM / 8)
#define PITCH (HEAD_DIM * 2)
// Chunks of a row are exchanged by an exclusive or with this many bits of the row's number.
#define SWIZZLE_BITS (CHUNKS % 8 == 0 ? 3 : CHUNKS % 4 == 0 ? 2 : CHUNKS % 2 == 0 ? 1 : 0)

// Bytes of a tile of so many rows.
#define TILE_BYTES(rows) ((rows) * PITCH)

// What a row's number does to its chunks' numbers; the same for rows that are 8 apart.
DEVICE int swizzle(int row) { return (row >> (3 - SWIZZLE_BITS)) & ((1 << SWIZZLE_BITS) - 1); }

// Where an element type's tensor has its element (batch, head, 0, 0).
DEVICE const char *plane(const void *tensor, const Strides &strides, int batch, int head) {
    return (const char *)tensor + 2 * (batch * strides.batch + head * strides.head);
}

// Starts copying `ROWS` rows from `first` on; rows from `end` on and chunks beyond the head size become zero: of those
// nothing is read, wherever their address points.
template <int ROWS, int THREADS>
DEVICE void copy_tile(u32 to, const char *from, long long row_stride, int first, int end, int head_dim) {
    if constexpr (THREADS % CHUNKS == 0 && ROWS % (THREADS / CHUNKS) == 0) {
        // A thread keeps to one column of chunks, so that a copy costs it few instructions.
        const int STEP = THREADS / CHUNKS;
        int row = thread_index() / CHUNKS, chunk = thread_index() % CHUNKS;
        int rows = chunk * 8 < head_dim ? end - first - row : 0;
        const char *source = from + 2 * ((first + row) * row_stride + chunk * 8);
        UNROLL for (int at = 0; at < ROWS; at += STEP) {
            copy_async(to + (row + at) * PITCH + ((chunk ^ swizzle(row + at)) << 4), source, at < rows ? 16 : 0);
            source += 2 * STEP * row_stride;
        }
    } else {
        UNROLL_BY(4) for (int at = 0; at < ROWS * CHUNKS; at += THREADS) {
            int place = at + thread_index();
            int row = place / CHUNKS, chunk = place % CHUNKS;
            if (ROWS * CHUNKS % THREADS == 0 || place < ROWS * CHUNKS) {
                bool there = first + row < end && chunk * 8 < head_dim;
                const char *source = from + 2 * ((first + row) * row_stride + chunk * 8);
                copy_async(to + row * PITCH + ((chunk ^ swizzle(row)) << 4), source, there ? 16 : 0);
            }
        }
    }
}

// Starts copying two numbers for each of ROWS queries: all of the first, then all of the second.
template <int ROWS> DEVICE void copy_rows(u32 to, const float *first, const float *second) {
    int place = thread_index();
    if (place < ROWS / 4) copy_async(to + 16 * place, first + 4 * place, 16);
    else if (place < ROWS / 2) copy_async(to + 16 * place, second + 4 * place - ROWS, 16);
}

// This lane's part in reading fragments from a tile: 16 rows by 16 columns at a time.
//
// The matrices 0 to 3 of load_matrices are (rows 0-7, columns 0-7), (rows 8-15, columns 0-7), (rows 0-7, columns 8-15),
// (rows 8-15, columns 8-15). Read as they are, they are the fragment A of multiply_add, or the fragments B of two blocks
// of 8 rows (words 0 and 2, words 1 and 3) whose columns are summed over. Transposed, they are the fragments B of two
// blocks of 8 columns (words 0 and 1, words 2 and 3) whose rows are summed over.
struct Reader {
    u32 row, chunk;
    DEVICE Reader at(u32 tile) {
        int lane = thread_index() & 31;
        Reader reader;
        reader.row = tile + (lane & 15) * PITCH;
        reader.chunk = ((lane >> 4) ^ swizzle(lane & 15)) << 4;
        return reader;
    }
    // Address for rows from 16 * block on and columns from 16 * step on.
    MEMBER u32 of(int block, int step) const {
        return row + block * (16 * PITCH) + (chunk ^ (step << 5));
    }
};
