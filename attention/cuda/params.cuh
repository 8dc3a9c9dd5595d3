// What a launch is told, field by field as `Params` in src/cuda/params.rs, where each field is described.

struct Strides {
    long long batch, head, row;
};

struct Params {
    const void *q, *k, *v;
    void *output, *lse;
    const void *grad_output;
    void *dq, *dk, *dv;
    void *delta, *lse_log2, *dq_sum;
    const float *slopes;
    const int *starts, *start_offsets;
    const void *angles;
    Strides q_strides, k_strides, v_strides, output_strides, grad_output_strides;
    Strides dq_strides, dk_strides, dv_strides;
    int batch, query_heads, key_heads, query_len, key_len, head_dim;
    int ordered, offset, window, sinks;
    int padded_query_len, inverse, pairs, key_offset;
    float scale, soft_cap;
};
