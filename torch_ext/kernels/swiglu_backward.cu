// Gradients of SwiGLU, and the product again if it is asked for. A thread reads all of its piece before it writes, so that
// gradients may lie where gate and up do. Grid: x = rows by blocks of a row.

KERNEL(THREADS, MIN_BLOCKS) swiglu_backward(const Params p) {
    Piece piece(p);
    if (piece.at >= p.columns) return;
    long long start = SIZE * piece.row * p.stride, dense = SIZE * piece.row * p.columns;
    Chunk left = load_piece((const char *)p.gate + start, piece.at, p.columns, true, 0);
    Chunk right = load_piece((const char *)p.up + start, piece.at, p.columns, true, 0);
    Chunk above = load_piece((const char *)p.grad + dense, piece.at, p.columns, true, 0);
    Numbers gate, up, grad, out;
    unpack_piece(gate, left);
    unpack_piece(up, right);
    unpack_piece(grad, above);
    UNROLL for (int i = 0; i < EACH; i++) {
        float sigma = sigmoid(gate[i]), silu = gate[i] * sigma;
        float slope = fma_(silu, 1.0f - sigma, sigma);
        out[i] = silu * up[i];
        gate[i] = grad[i] * up[i] * slope;
        up[i] = grad[i] * silu;
    }
    if (p.out) store_piece((char *)p.out + dense, piece.at, p.columns, true, pack_piece(out));
    start = SIZE * piece.row * p.grad_stride;
    store_piece((char *)p.dgate + start, piece.at, p.columns, true, pack_piece(gate));
    store_piece((char *)p.dup + start, piece.at, p.columns, true, pack_piece(up));
}
