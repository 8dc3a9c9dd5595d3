// What a launch of SwiGLU is told; mirrors `Params` of fused/swiglu.rs.

struct Params {
    const void *gate, *up;
    // Forward: the product. Backward: the product again, or null.
    void *out;
    // Backward: the gradient of the product; gradients by gate and up, which may lie where these lie.
    const void *grad;
    void *dgate, *dup;
    // Elements between rows of gate and up, and of their gradients; `out` and `grad` are in one piece. Where there is more than
    // one row, these and `columns` are whole pieces.
    long long stride, grad_stride;
    long long rows, columns;
    // Blocks that share a row.
    long long row_blocks;
};
