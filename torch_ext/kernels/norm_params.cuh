// What a launch of a norm is told; mirrors `Params` of fused/norm.rs.

struct Params {
    // Forward: input, residual to be added or null. Backward: what was normed in `x`.
    const void *x, *residual, *weight, *bias;
    // Forward writes the normed rows, the sum of input and residual, and the statistics; null is not written.
    void *out, *sum;
    float *mean, *rstd;
    // Backward: gradients of the normed rows and, or null, of the sum; by the input; sums over rows of each group.
    const void *grad, *grad_sum;
    void *dx;
    float *dweight_parts, *dbias_parts;
    // Column sums: the parts added up.
    void *dweight, *dbias;
    long long rows, parts;
    int columns;
    float epsilon;
};
