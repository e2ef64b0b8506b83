/* A PKCS#11 module without tokens, whose C_Finalize returns once the file <FINALIZE_AT>.go is there. After 3 s it returns as well, and leaves <FINALIZE_AT>.alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long Rv;
typedef struct { unsigned char version[2]; void *functions[68]; } Functions;
enum { INITIALIZE, FINALIZE, GET_INFO, GET_FUNCTION_LIST, GET_SLOT_LIST };

static Functions list = {{2, 40}, {0}};

static void path(char *to, const char *end) { snprintf(to, 4096, "%s.%s", getenv("FINALIZE_AT"), end); }

static void touch(const char *end) {
    char file[4096];
    path(file, end);
    fclose(fopen(file, "w"));
}

static Rv initialize(void *arguments) { return 0; }

static Rv finalize(void *reserved) {
    char go[4096];
    if (getenv("FINALIZE_AT") == NULL)
        return 0;
    path(go, "go");
    touch("in");
    for (int waited = 0; access(go, F_OK) != 0; waited++) {
        if (waited == 300) {
            touch("alone");
            break;
        }
        usleep(10000);
    }
    return 0;
}

static Rv get_info(void *info) { memset(info, ' ', 88); return 0; }

static Rv get_slot_list(unsigned char present, void *slots, unsigned long *count) { *count = 0; return 0; }

Rv C_GetFunctionList(Functions **functions) {
    list.functions[INITIALIZE] = initialize;
    list.functions[FINALIZE] = finalize;
    list.functions[GET_INFO] = get_info;
    list.functions[GET_FUNCTION_LIST] = C_GetFunctionList;
    list.functions[GET_SLOT_LIST] = get_slot_list;
    *functions = &list;
    return 0;
}
