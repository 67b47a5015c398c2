"""Names and signatures that code written for other libraries uses: halfbyte.compat.flashinfer and
halfbyte.compat.vllm. Both run on every device that halfbyte runs on."""
