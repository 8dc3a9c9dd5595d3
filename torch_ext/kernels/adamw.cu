// One step of AdamW (Loshchilov and Hutter 2019, algorithm 2) on a parameter in one pass: every number that is kept is read
// once and written once. Compiled without contraction, so that products are rounded before they are added: the bits are
// those of optim/low/twin.rs.
//
// A warp has a block of 256 numbers, a lane 8 of them. Blocks of 8-bit moments have a scale each, the largest magnitude;
// their codes are places in a map of 256 values (Dettmers et al. 2022). Grid: x = any number of blocks, which take turns.

#define BLOCK 256
// Moments.
#define SINGLE 0
#define BRAIN 1
#define CODED 2
#define LARGEST 3.40282346638528860e38f

typedef float Eight[8];

DEVICE void load_singles(Eight &to, const void *from, long long at, long long count) {
    const float *first = (const float *)from + at;
    if (at + 8 <= count) {
        Chunk low = load_chunk(first), high = load_chunk(first + 4);
        UNROLL for (int i = 0; i < 4; i++) to[i] = from_bits(low.words[i]), to[4 + i] = from_bits(high.words[i]);
        return;
    }
    UNROLL for (int i = 0; i < 8; i++) to[i] = at + i < count ? load_float(first + i) : 0.0f;
}

DEVICE void store_singles(void *to, long long at, long long count, const Eight &from) {
    float *first = (float *)to + at;
    if (at + 8 <= count) {
        Chunk low, high;
        UNROLL for (int i = 0; i < 4; i++) low.words[i] = to_bits(from[i]), high.words[i] = to_bits(from[4 + i]);
        store_chunk(first, low);
        store_chunk(first + 4, high);
        return;
    }
    UNROLL for (int i = 0; i < 8; i++)
        if (at + i < count) store_float(first + i, from[i]);
}

// Numbers of 16 bits.
DEVICE void load_halves(Eight &to, const void *from, long long at, long long count) {
    const char *first = (const char *)from + 2 * at;
    if (at + 8 <= count) {
        Chunk chunk = load_chunk(first);
        UNROLL for (int i = 0; i < 8; i++) to[i] = unpack(chunk.words[i / 2], i % 2);
        return;
    }
    UNROLL for (int i = 0; i < 8; i++) to[i] = at + i < count ? unpack(load_u16(first + 2 * i), 0) : 0.0f;
}

DEVICE void store_halves(void *to, long long at, long long count, const Chunk &chunk) {
    char *first = (char *)to + 2 * at;
    if (at + 8 <= count) {
        store_chunk(first, chunk);
        return;
    }
    UNROLL for (int i = 0; i < 8; i++)
        if (at + i < count) store_u16(first + 2 * i, (u16)(chunk.words[i / 2] >> 16 * (i % 2)));
}

// Rounded to nearest.
DEVICE Chunk nearest(const Eight &numbers) {
    Chunk chunk;
    UNROLL for (int i = 0; i < 4; i++) chunk.words[i] = pack(numbers[2 * i], numbers[2 * i + 1]);
    return chunk;
}

// Rounded stochastically, by the bits of the numbers from `at` on.
DEVICE Chunk stochastic(const Eight &numbers, const Params &p, u32 use, long long at) {
    u32 words[4];
    random_words(words, p, use, (unsigned long long)(p.first + at));
    Chunk chunk;
    UNROLL for (int i = 0; i < 4; i++) {
        u32 low = stochastic_bits(numbers[2 * i], words[i] & 0xffffu);
        chunk.words[i] = low | stochastic_bits(numbers[2 * i + 1], words[i] >> 16) << 16;
    }
    return chunk;
}

#if MOMENTS == CODED
// Shared memory: values of the signed and of the unsigned map, then the middles of both.
DEVICE float value_of(int book, int code) { return load_shared_float(shared_address(4 * (256 * book + code))); }
DEVICE float middle_of(int book, int code) { return load_shared_float(shared_address(4 * (512 + 256 * book + code))); }

DEVICE void load_maps(const Params &p) {
    for (int place = thread_index(); place < 512; place += 32 * WARPS) {
        store_shared_float(shared_address(4 * place), load_float(p.values + place));
        store_shared_float(shared_address(4 * (512 + place)), load_float(p.middles + place));
    }
    barrier();
}

DEVICE void load_coded(Eight &to, int book, const void *codes, const float *scales, long long at, long long count) {
    const char *first = (const char *)codes + at;
    float scale = at < count ? load_float(scales + at / BLOCK) : 0.0f;
    if (at + 8 <= count) {
        u32 words[2] = {(u32)load_int((const int *)first), (u32)load_int((const int *)(first + 4))};
        UNROLL for (int i = 0; i < 8; i++) to[i] = value_of(book, words[i / 4] >> 8 * (i % 4) & 255u) * scale;
        return;
    }
    UNROLL for (int i = 0; i < 8; i++) to[i] = at + i < count ? value_of(book, load_byte(first + i)) * scale : 0.0f;
}

// The place of the value nearest to a number from -1 to 1: how many middles are below it. The decade below 10^-k holds half
// as many steps as the one above it, which gives a place at most a step off; the middles decide.
DEVICE int code_of(int book, float x) {
    float size = abs_(x), power = 1.0f;
    int decade = 6;
    UNROLL for (int i = 0; i < 6; i++) {
        if (size * power >= 0.1f) continue;
        power *= 10.0f;
        decade--;
    }
    int steps = 1 << (decade + book);
    // Beyond the row of decades, in which zero lies, as well; also of no meaning where x is no number.
    int step = min_(max_((int)((size * power - 0.1f) * (1.0f / 0.9f) * (float)steps), -1), steps);
    int place = book ? steps - 1 + step : x < 0.0f ? 127 - steps - step : 127 + steps + step;
    place = min_(max_(place, 0), 255);
    while (place < 255 && x > middle_of(book, place)) place++;
    while (place > 0 && x <= middle_of(book, place - 1)) place--;
    return place;
}

// The whole warp has one block.
DEVICE void store_coded(int book, void *codes, float *scales, long long at, long long count, const Eight &numbers) {
    float scale = 0.0f;
    UNROLL for (int i = 0; i < 8; i++) scale = max_(scale, abs_(numbers[i]));
    UNROLL for (int mask = 16; mask > 0; mask /= 2) scale = max_(scale, shuffle_xor(scale, mask));
    if (at >= count) return;
    if (thread_index() % 32 == 0) store_float(scales + at / BLOCK, scale);
    float divisor = scale > 0.0f ? scale : 1.0f;
    u32 words[2] = {0, 0};
    UNROLL for (int i = 0; i < 8; i++) {
        int code = code_of(book, divide(numbers[i], divisor));
        // What is above zero does not become zero in the map of squares.
        if (book && numbers[i] > 0.0f) code = max_(code, 1);
        words[i / 4] |= (u32)code << 8 * (i % 4);
    }
    char *first = (char *)codes + at;
    if (at + 8 <= count) {
        UNROLL for (int i = 0; i < 2; i++) store_word(first + 4 * i, words[i]);
        return;
    }
    UNROLL for (int i = 0; i < 8; i++)
        if (at + i < count) store_byte(first + i, (unsigned char)(words[i / 4] >> 8 * (i % 4)));
}
#endif

KERNEL(32 * WARPS, MIN_BLOCKS) adamw(const Params p) {
#if MOMENTS == CODED
    load_maps(p);
#endif
    int warp = thread_index() / 32, lane = thread_index() % 32;
    for (long long block = (long long)block_x() * WARPS + warp; block * BLOCK < p.count; block += (long long)grid_x() * WARPS) {
        long long at = block * BLOCK + 8 * lane;
        Eight weights, gradients, means, squares;
#if GRADIENT_HALF
        load_halves(gradients, p.gradients, at, p.count);
#else
        load_singles(gradients, p.gradients, at, p.count);
#endif
#if WEIGHT_HALF
        load_halves(weights, p.weights, at, p.count);
#else
        load_singles(weights, p.weights, at, p.count);
#endif
#if MOMENTS == SINGLE
        load_singles(means, p.means, at, p.count);
        load_singles(squares, p.squares, at, p.count);
#elif MOMENTS == BRAIN
        load_halves(means, p.means, at, p.count);
        load_halves(squares, p.squares, at, p.count);
#else
        load_coded(means, 0, p.means, p.mean_scales, at, p.count);
        load_coded(squares, 1, p.squares, p.square_scales, at, p.count);
#endif
        UNROLL for (int i = 0; i < 8; i++) {
            float gradient = gradients[i] * p.scale;
            means[i] = means[i] * p.beta1 + gradient * p.take1;
            float square = squares[i] * p.beta2 + gradient * p.take2 * gradient;
            squares[i] = square < LARGEST ? square : LARGEST;
            float root = square_root(squares[i]) * p.root + p.epsilon;
            weights[i] = weights[i] * p.keep - divide(means[i], root) * p.rate;
        }
#if WEIGHT_HALF
        store_halves(p.weights, at, p.count, stochastic(weights, p, WEIGHT_BITS, at));
#else
        store_singles(p.weights, at, p.count, weights);
#endif
#if MOMENTS == SINGLE
        store_halves(p.copy, at, p.count, nearest(weights));
        store_singles(p.means, at, p.count, means);
        store_singles(p.squares, at, p.count, squares);
#elif MOMENTS == BRAIN
        store_halves(p.means, at, p.count, stochastic(means, p, MEAN_BITS, at));
        store_halves(p.squares, at, p.count, stochastic(squares, p, SQUARE_BITS, at));
#else
        store_coded(0, p.means, p.mean_scales, at, p.count, means);
        store_coded(1, p.squares, p.square_scales, at, p.count, squares);
#endif
    }
}
