// From q . k to an exponent of two: scale, soft cap, ALiBi. SCORES says which of them there are.

#define PLAIN 0
#define ALIBI 1
#define CAPPED 2

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

// tanh by way of exp2: 1e-7 apart at worst, where the device's own instruction is 5e-4 apart.
DEVICE float tanh_(float x) { return fma_(-2.0f, reciprocal_fast(exp2_fast(2.0f * LOG2_E * x) + 1.0f), 1.0f); }

struct Scores {
    // An exponent is `factor` times a score.
    float factor, scale, cap, slope;

    DEVICE Scores of(const Params &p, int head) {
        Scores scores;
        scores.scale = SCORES == CAPPED ? p.scale / p.soft_cap : p.scale * LOG2_E;
        scores.factor = SCORES == PLAIN ? scores.scale : 1.0f;
        scores.cap = p.soft_cap * LOG2_E;
        scores.slope = SCORES != PLAIN && p.slopes ? load_float(p.slopes + head) * LOG2_E : 0.0f;
        return scores;
    }

    // The score of q . k at a distance of query and key; `bend` becomes its derivative by what is capped.
    MEMBER float score(float product, float distance, float &bend) const {
        if (SCORES == PLAIN) return product;
        if (SCORES == ALIBI) return fma_(-slope, abs_(distance), product * scale);
        float tangent = tanh_(product * scale);
        bend = fma_(-tangent, tangent, 1.0f);
        return fma_(-slope, abs_(distance), tangent * cap);
    }
};
