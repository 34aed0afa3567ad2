/* Drops everything; the kernel counts it as received. */
__attribute__((section("xdp"), used)) int drop(void *ctx)
{
    return 1;
}

__attribute__((section("license"), used)) char license_name[] = "GPL";
