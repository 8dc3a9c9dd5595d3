// Tiles and products in float32, for results that 16-bit products cannot give: TILE_M rows of each tile in shared memory,
// 16 by 16 threads, each with the rows thread / 16 and the columns thread % 16 of every 16.

#define THREADS (32 * WARPS)
// Rows and columns of a thread in a tile of scores, and pieces of 4 columns in a sum. Kernels without tiles have fewer
// than 16 rows, and no array may be empty.
#define EACH ((TILE_M + 15) / 16)
#define PIECES ((HEAD_DIM + 63) / 64)
// Padded so that rows lie in different banks.
#define ROW_BYTES ((HEAD_DIM + 4) * 4)
#define SINGLE_BYTES (TILE_M * ROW_BYTES)
#define SCORE_PITCH (4 * (TILE_M + 1))
#define SCORE_BYTES (TILE_M * SCORE_PITCH)

typedef float ScoreTile[EACH][EACH];
typedef float SumTile[EACH][PIECES][4];

DEVICE const char *single_plane(const void *tensor, const Strides &strides, int batch, int head) {
    return (const char *)tensor + 4 * (batch * strides.batch + head * strides.head);
}

// Starts copying rows from `first` on; rows from `end` on and columns beyond the head size become zero.
DEVICE void copy_single(u32 to, const char *from, long long row_stride, int first, int end, int head_dim) {
    for (int place = thread_index(); place < TILE_M * (HEAD_DIM / 4); place += THREADS) {
        int row = place / (HEAD_DIM / 4), piece = place % (HEAD_DIM / 4);
        bool there = first + row < end && 4 * piece < head_dim;
        const char *source = there ? from + 4 * ((first + row) * row_stride + 4 * piece) : from;
        copy_async(to + row * ROW_BYTES + 16 * piece, source, there ? 16 : 0);
    }
}

DEVICE int own_row() { return thread_index() >> 4; }
DEVICE int own_column() { return thread_index() & 15; }

// result = a b^T for the thread's rows of a and of b.
DEVICE void single_products(ScoreTile &result, u32 a, u32 b) {
    UNROLL for (int i = 0; i < EACH; i++)
        UNROLL for (int j = 0; j < EACH; j++) result[i][j] = 0.0f;
    a += own_row() * ROW_BYTES;
    b += own_column() * ROW_BYTES;
    UNROLL_BY(4) for (int piece = 0; piece < HEAD_DIM / 4; piece++) {
        Chunk left[EACH], right[EACH];
        UNROLL for (int i = 0; i < EACH; i++) {
            left[i] = load_shared_chunk(a + i * 16 * ROW_BYTES + 16 * piece);
            right[i] = load_shared_chunk(b + i * 16 * ROW_BYTES + 16 * piece);
        }
        UNROLL for (int i = 0; i < EACH; i++)
            UNROLL for (int j = 0; j < EACH; j++)
                UNROLL for (int k = 0; k < 4; k++)
                    result[i][j] = fma_(from_bits(left[i].words[k]), from_bits(right[j].words[k]), result[i][j]);
    }
}

// Puts a tile of scores where the whole block can read it; a barrier comes after.
DEVICE void share(u32 to, const ScoreTile &scores) {
    UNROLL for (int i = 0; i < EACH; i++)
        UNROLL for (int j = 0; j < EACH; j++)
            store_shared_float(to + (own_row() + 16 * i) * SCORE_PITCH + 4 * (own_column() + 16 * j), scores[i][j]);
}

DEVICE void clear_single(SumTile &sum) {
    UNROLL for (int i = 0; i < EACH; i++)
        UNROLL for (int c = 0; c < PIECES; c++)
            UNROLL for (int k = 0; k < 4; k++) sum[i][c][k] = 0.0f;
}

// sum += weights b for the thread's rows of the shared weights and its pieces of columns of b.
DEVICE void add_single_products(SumTile &sum, u32 weights, u32 b) {
    weights += own_row() * SCORE_PITCH;
    UNROLL_BY(2) for (int j = 0; j < TILE_M; j++) {
        float left[EACH];
        UNROLL for (int i = 0; i < EACH; i++) left[i] = load_shared_float(weights + i * 16 * SCORE_PITCH + 4 * j);
        UNROLL for (int c = 0; c < PIECES; c++) {
            int piece = own_column() + 16 * c;
            if (4 * piece >= HEAD_DIM) continue;
            Chunk right = load_shared_chunk(b + j * ROW_BYTES + 16 * piece);
            UNROLL for (int i = 0; i < EACH; i++)
                UNROLL for (int k = 0; k < 4; k++) sum[i][c][k] = fma_(left[i], from_bits(right.words[k]), sum[i][c][k]);
        }
    }
}

// Stores the thread's pieces of one row of a sum, times a factor.
DEVICE void store_single(char *row, const float (&pieces)[PIECES][4], float factor, int head_dim) {
    UNROLL for (int c = 0; c < PIECES; c++) {
        int piece = own_column() + 16 * c;
        if (4 * piece >= head_dim) continue;
        Chunk chunk;
        UNROLL for (int k = 0; k < 4; k++) chunk.words[k] = to_bits(pieces[c][k] * factor);
        store_chunk(row + 16 * piece, chunk);
    }
}

// Scores become weights, and the products of gradients with values become gradients of scores: of one pair.
DEVICE void finish_single(float &weight, float &gradient, const Scores &how, float distance, float lse, float delta,
                          bool seen) {
    float bend = 1.0f;
    float score = how.score(weight, distance, bend);
    weight = seen ? exp2_fast(fma_(score, how.factor, -lse)) : 0.0f;
    // A hidden pair's product may be anything, NaN among it.
    gradient = seen ? weight * (gradient - delta) * bend : 0.0f;
}
