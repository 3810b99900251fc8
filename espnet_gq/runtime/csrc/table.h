/* The members of an instruction_set, in terms of its templates: included last. */
#define BY_BITS(f, m)                                                                  \
    { f<1, m>, f<2, m>, f<3, m>, f<4, m>, f<5, m>, f<6, m>, f<7, m>, f<8, m> }
#define BY_ROWS(f)                                                                     \
    { BY_BITS(f, 1), BY_BITS(f, 2), BY_BITS(f, 4), BY_BITS(f, 8) }
#define EACH(f)                                                                        \
    { f<1>, f<2>, f<3>, f<4>, f<5>, f<6>, f<7>, f<8> }
#define ROWS_ONLY(f)                                                                   \
    { f<1>, f<2>, f<4>, f<8> }
#define INSTRUCTION_SET(name)                                                          \
    {                                                                                  \
        name, BY_ROWS(dot_float), BY_ROWS(dot_int8), EACH(values), EACH(codes),        \
            ROWS_ONLY(dot_values), ROWS_ONLY(dot_codes), quantize, lstm, gru,          \
            read_words                                                                 \
    }
