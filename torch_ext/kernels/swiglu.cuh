// SwiGLU (Shazeer 2020, equation 6): silu(gate) * up with silu(x) = x * sigmoid(x). Each number is on its own; a thread has a
// piece of a row.

DEVICE float sigmoid(float x) { return divide(1.0f, 1.0f + exp2_fast(-LOG2_E * x)); }

// The row and the piece in it of this thread.
struct Piece {
    long long row, at;
    MEMBER Piece(const Params &p) {
        row = block_x() / p.row_blocks;
        at = EACH * (block_x() % p.row_blocks * THREADS + thread_index());
    }
};
