// SPDX-License-Identifier: GPL-2.0-only
/* Linked with the kernel's own Kconfig parser: says on what the symbols in $MKHARNESS_SYMBOLS depend. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "lkc.h"

int main(int argc, char **argv)
{
	char *names = getenv("MKHARNESS_SYMBOLS");

	if (argc < 2 || !names)
		return 2;
	conf_parse(argv[argc - 1]);
	conf_read(NULL);
	for (char *name = strtok(names, " "); name; name = strtok(NULL, " ")) {
		struct symbol *found[] = { sym_find(name), NULL };

		if (!found[0] || found[0]->type == S_UNKNOWN) {
			printf("Symbol: %s\nno such symbol\n\n", name);
			continue;
		}
		sym_calc_value(found[0]);
		fputs(str_get((struct gstr[]){ get_relations_str(found, NULL) }), stdout);
	}
	return 0;
}
