/* In place of libFuzzer: the files that are named, one after the other. For the tests, which need no clang. */
#include "fuzz.h"

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        FUZZ_CHECK(file && !fseek(file, 0, SEEK_END));
        long n = ftell(file);
        rewind(file);
        uint8_t *data = malloc(n > 0 ? (size_t)n : 1);
        FUZZ_CHECK(n >= 0 && data && fread(data, 1, (size_t)n, file) == (size_t)n);
        fclose(file);
        LLVMFuzzerTestOneInput(data, (size_t)n);
        free(data);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
