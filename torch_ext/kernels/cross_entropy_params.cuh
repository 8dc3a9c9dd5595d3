// What a launch of the cross-entropy is told; mirrors `Params` of fused/cross_entropy.rs.

struct Params {
    // Rows of logits, overwritten by their gradient if `gradient` is set.
    void *logits;
    const long long *targets;
    // Float32 for each row: weight of the row in the gradient, or null; the loss in nats.
    const float *weights;
    float *losses;
    long long rows;
    // Elements between rows.
    long long stride;
    // The target of rows that do not count, as those of weight zero: their loss and gradient are zero.
    long long ignored;
    // Factor on every gradient.
    float scale;
    int columns, gradient, padding;
};
