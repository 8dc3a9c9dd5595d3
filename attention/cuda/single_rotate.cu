// Rotary position embedding in place, as rotate.cu, of float32 tensors. A thread has 8 pairs of one vector.
//
// Grid: x = vectors of one head by 8 pairs; y = query heads, then key heads; z = batch.

DEVICE void rotate_chunks(Chunk &left, Chunk &right, const float *angles, bool inverse) {
    UNROLL for (int i = 0; i < 4; i++) {
        float cosine = load_float(angles + 2 * i), sine = load_float(angles + 2 * i + 1);
        float x = from_bits(left.words[i]), y = from_bits(right.words[i]);
        sine = inverse ? -sine : sine;
        left.words[i] = to_bits(fma_(x, cosine, -(y * sine)));
        right.words[i] = to_bits(fma_(x, sine, y * cosine));
    }
}

KERNEL(THREADS, MIN_BLOCKS) attention_rotate(const Params p) {
    int each = p.pairs / 8, place = block_x() * THREADS + thread_index();
    int row = place / each, head = block_y(), batch = block_z();
    bool of_keys = head >= p.query_heads;
    if (row >= (of_keys ? p.key_len : p.query_len)) return;
    const Strides &strides = of_keys ? p.k_strides : p.q_strides;
    const void *tensor = of_keys ? p.k : p.q;
    if (!tensor) return;
    char *vector = (char *)single_plane(tensor, strides, batch, of_keys ? head - p.query_heads : head);
    vector += 4 * row * strides.row;
    long long position = row + (of_keys ? p.key_offset : p.offset);
    UNROLL for (int half = 0; half < 2; half++) {
        int pair = 8 * (place % each) + 4 * half;
        char *first = vector + 4 * pair, *second = first + 4 * p.pairs;
        Chunk left = load_chunk(first), right = load_chunk(second);
        rotate_chunks(left, right, (const float *)p.angles + 2 * (position * p.pairs + pair), p.inverse != 0);
        store_chunk(first, left);
        store_chunk(second, right);
    }
}
