/* Sends the frame it is run on out of an interface, as it was first made: receivers may have changed the page since. */
struct xdp_md {
    unsigned int data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static long (*const bpf_redirect)(unsigned int ifindex, unsigned long long flags) = (void *)23;

__attribute__((section("xdp"), used)) int send_frame(struct xdp_md *ctx)
{
    unsigned short *frame = (void *)(long)ctx->data;
    static const unsigned short headers[] = { HEADERS };

    if ((void *)(long)ctx->data_end < (void *)(frame + sizeof(headers) / 2))
        return 1;
#pragma unroll
    for (int i = 0; i < (int)(sizeof(headers) / 2); i++)
        frame[i] = headers[i];
    return bpf_redirect(IFINDEX, 0);
}

__attribute__((section("license"), used)) char license_name[] = "GPL";
