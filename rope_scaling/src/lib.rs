//! Position encodings of long-context models: RoPE scaling schemes, tables, ALiBi, Hugging Face configs.
