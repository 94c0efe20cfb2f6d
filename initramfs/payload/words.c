// SPDX-License-Identifier: GPL-2.0-only
/* Strings, and what gcc calls by itself. */
#include "payload.h"

void copy(void *to, const void *from, size_t size)
{
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) :: "memory");
}

void set(void *to, u8 value, size_t size)
{
	asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
}

__attribute__((visibility("hidden"))) void *memcpy(void *to, const void *from, size_t size)
{
	copy(to, from, size);
	return to;
}

__attribute__((visibility("hidden"))) void *memset(void *to, int value, size_t size)
{
	set(to, value, size);
	return to;
}

/* Cut the next word off *rest; an empty string when there is none. */
char *next_word(char **rest, char separator)
{
	char *word;

	while (**rest == separator)
		(*rest)++;
	word = *rest;
	while (**rest && **rest != separator)
		(*rest)++;
	if (**rest)
		*(*rest)++ = 0;
	return word;
}

bool same(const char *one, const char *other)
{
	for (; *one && *one == *other; one++)
		other++;
	return *one == *other;
}

/* What comes after the prefix, or NULL where text does not begin with it */
const char *after(const char *text, const char *prefix)
{
	for (; *prefix; prefix++)
		if (*text++ != *prefix)
			return NULL;
	return text;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return 16;
}

/* Decimal, or hexadecimal behind 0x; all of the word */
bool number(const char *word, u64 *value)
{
	const char *hex = after(word, "0x");
	int base = hex ? 16 : 10;

	*value = 0;
	if (hex)
		word = hex;
	if (!*word)
		return false;
	for (; *word; word++) {
		if (digit(*word) >= base)
			return false;
		*value = *value * base + digit(*word);
	}
	return true;
}
