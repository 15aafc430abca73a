# syntax = docker/dockerfile:1.4
FROM mambaorg/micromamba:2.0-debian12 AS solve
ARG MAMBA_USER=mambauser
COPY --chown=$MAMBA_USER:$MAMBA_USER environment.yml /tmp/env.yaml
RUN --mount=type=cache,target=/opt/conda/pkgs,uid=57439,gid=57439,mode=0775,sharing=locked \
    micromamba install -y -n base -f /tmp/env.yaml

FROM nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04
ENV DEBIAN_FRONTEND noninteractive
ENV LD_LIBRARY_PATH=/opt/conda/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
COPY --from=solve /opt/conda /opt/conda
ENV PATH=/opt/conda/bin:$PATH
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d \
    https://models.example.com/resnet50/v2/weights.bin /models/
ADD --unpack=true --chmod=a+rX https://models.example.com/tokenizer.tar.gz /models/tokenizer/
COPY notebooks/ /lab/notebooks
COPY ["train script.py", "setup.cfg", "/lab/"]
WORKDIR /lab
RUN --device=nvidia.com/gpu=all,required python -c 'import torch; assert torch.cuda.is_available()'
EXPOSE 8888 6006-6008
VOLUME ["/lab/data", "/lab/out"]
ENTRYPOINT ["python", "-m"]
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--allow-root"]
