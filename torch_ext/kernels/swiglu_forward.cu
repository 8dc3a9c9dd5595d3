// SwiGLU. Grid: x = rows by blocks of a row.

KERNEL(THREADS, MIN_BLOCKS) swiglu_forward(const Params p) {
    Piece piece(p);
    if (piece.at >= p.columns) return;
    long long start = SIZE * piece.row * p.stride;
    Chunk left = load_piece((const char *)p.gate + start, piece.at, p.columns, true, 0);
    Chunk right = load_piece((const char *)p.up + start, piece.at, p.columns, true, 0);
    Numbers gate, up;
    unpack_piece(gate, left);
    unpack_piece(up, right);
    UNROLL for (int i = 0; i < EACH; i++) gate[i] = gate[i] * sigmoid(gate[i]) * up[i];
    store_piece((char *)p.out + SIZE * piece.row * p.columns, piece.at, p.columns, true, pack_piece(gate));
}
