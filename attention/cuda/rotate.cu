// Rotary position embedding (Su et al. 2021, equation 15) of queries and keys in place, in float32: channel c < pairs turns
// with channel c + pairs, later channels stay. Rotation back is the gradient of rotation.
//
// A thread has 8 pairs of one vector. Grid: x = vectors of one head by 8 pairs; y = query heads, then key heads; z = batch.

DEVICE void rotate_chunks(Chunk &left, Chunk &right, const float *angles, bool inverse) {
    UNROLL for (int i = 0; i < 4; i++) {
        float turned[2][2];
        UNROLL for (int half = 0; half < 2; half++) {
            float cosine = load_float(angles + 4 * i + 2 * half), sine = load_float(angles + 4 * i + 2 * half + 1);
            float x = unpack(left.words[i], half), y = unpack(right.words[i], half);
            sine = inverse ? -sine : sine;
            turned[0][half] = fma_(x, cosine, -(y * sine));
            turned[1][half] = fma_(x, sine, y * cosine);
        }
        left.words[i] = pack(turned[0][0], turned[0][1]);
        right.words[i] = pack(turned[1][0], turned[1][1]);
    }
}

KERNEL(32 * WARPS, MIN_BLOCKS) attention_rotate(const Params p) {
    int each = p.pairs / 8, place = block_x() * 32 * WARPS + thread_index();
    int row = place / each, chunk = place % each, head = block_y(), batch = block_z();
    bool of_keys = head >= p.query_heads;
    if (row >= (of_keys ? p.key_len : p.query_len)) return;
    const Strides &strides = of_keys ? p.k_strides : p.q_strides;
    const void *tensor = of_keys ? p.k : p.q;
    if (!tensor) return;
    char *vector = (char *)plane(tensor, strides, batch, of_keys ? head - p.query_heads : head) + 2 * row * strides.row;
    char *first = vector + 16 * chunk, *second = first + 2 * p.pairs;
    long long position = row + (of_keys ? p.key_offset : p.offset);
    Chunk left = load_chunk(first), right = load_chunk(second);
    rotate_chunks(left, right, (const float *)p.angles + 2 * (position * p.pairs + 8 * chunk), p.inverse != 0);
    store_chunk(first, left);
    store_chunk(second, right);
}
