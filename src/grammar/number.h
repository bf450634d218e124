/* Numbers as sets of texts: bounds, multiples, excluded values. */
#ifndef OFR_GRAMMAR_NUMBER_H
#define OFR_GRAMMAR_NUMBER_H

#include <jansson.h>
#include <stdbool.h>

#include "base/status.h"
#include "grammar/dfa.h"

enum { OFR_DECIMAL_DIGITS_MAX = 40 };

/* A decimal number: digits before the point without leading zeros ("0" for none), digits after it
 * without trailing zeros. Zero is not negative. */
typedef struct ofr_decimal {
    bool negative;
    char whole[OFR_DECIMAL_DIGITS_MAX + 1], fraction[OFR_DECIMAL_DIGITS_MAX + 1];
} ofr_decimal;

/* Of a JSON number, by its shortest spelling. OFR_ELIMIT if it has too many digits. */
int ofr_decimal_from_json(const json_t *number, ofr_decimal *ret_decimal);
int ofr_decimal_compare(const ofr_decimal *a, const ofr_decimal *b);

/* Each returns the texts of decimal numbers, without an exponent, that ... */
/* ... are whole (spelled without a point), or are not, or either, with up to `digits` digits before
 * and after the point. */
int ofr_number_texts(bool whole, bool fractional, uint32_t digits, ofr_dfa **ret_dfa,
                     ofr_error *err);
/* ... are at least (more than, if strict) `bound`. */
int ofr_number_at_least(const ofr_decimal *bound, bool strict, ofr_dfa **ret_dfa, ofr_error *err);
int ofr_number_at_most(const ofr_decimal *bound, bool strict, ofr_dfa **ret_dfa, ofr_error *err);
/* ... are multiples of `divisor` > 0. */
int ofr_number_multiple(const ofr_decimal *divisor, ofr_dfa **ret_dfa, ofr_error *err);
/* ... equal `value`, in any spelling. */
int ofr_number_equal(const ofr_decimal *value, ofr_dfa **ret_dfa, ofr_error *err);

#endif
