"""Which pictures and animations of the ComfyUI template wheels are used, for what, and who is in them: chosen by eye.

One list to train on (STILLS), one of pictures of difficult kinds that nothing is trained on (HELD), one of animations with
moving mouths (CLIPS). Whole identities are on one side: what a template shows before and after, and one person in several
templates, is one identity. Non-goals: reading the files (download, stills, held_pictures, clip_frames).
"""

from __future__ import annotations

from dataclasses import dataclass

KINDS = (
    "three-quarter", "smile", "parted", "dark", "coloured", "beard", "glasses", "close", "old", "painting", "character", "covered",
    "profile", "animal", "several", "beyond",
)
# beginnings of names that are never looked at: kept for judging the project from outside
RESERVED = (
    "api_bfl_flux_1_kontext_pro_image-", "flux_fill_inpaint_example-", "image_boogu_image_0_1_turbo_t2i-",
    "template_character_portrait_relighting-", "wan2.1_fun_control-", "inpaint_example-", "api_recraft_v4_1_t2i-",
    "api_topaz_video_enhance-", "image_qwen_image_edit_2511_int8-", "3d_hunyuan3d_multiview_to_model-",
    "api_magnific_skin_enhancer-", "sd3.5_simple_example-", "ltxv_text_to_video-", "image_z_image_turbo_fun_union_controlnet-",
    "hidream_e1_full-", "api_bria_image_outpainting-", "gsl_starter_1_1-", "image_fibo2_edit_dev_pe-", "image_hidream_o1-",
)
# other settings of reserved templates: they may show the same picture
RELATED = (
    "api_bfl_flux_1_kontext_", "flux_fill_", "image_boogu_image_0_1_", "image_qwen_image_edit_2511", "image-qwen_image_edit_2511",
    "3d_hunyuan3d_multiview", "hidream_e1_", "image_fibo2_edit_", "image_hidream_o1", "api_recraft_v4_1_", "gsl_starter_",
)


@dataclass(frozen=True, kw_only=True)
class Still:
    """A face in a picture or animation of the template wheels; `face` counts the large ones in reading order.

    `held` keeps it out of training; `kinds` are of KINDS; `rest`: it looks ahead with closed lips. `span` is the part of an
    animation, 0..1, that is looked at; `look` names a second face of one file, `who` a person who is in several files.
    """

    name: str
    kind: str = "portrait"
    kinds: tuple[str, ...] = ()
    rest: bool = True
    face: int = 0
    held: bool = False
    span: tuple[float, float] = (0.0, 1.0)
    least: int = 85  # pixels of the face's longer side
    look: str = ""
    who: str = ""

    @property
    def identity(self) -> str:
        """One name a person."""
        return self.who or self._face_name

    @property
    def stem(self) -> str:
        """One name a still."""
        return self._face_name + (f"-{self.look}" if self.look else "")

    @property
    def _face_name(self) -> str:
        return stem_of(self.name) + (f"-face{self.face}" if self.face else "")


@dataclass(frozen=True, kw_only=True)
class HeldPicture:
    """A whole picture of a difficult kind; `at` (0..1) is the frame of an animation, `note` what is difficult in it."""

    name: str
    kinds: tuple[str, ...]
    note: str
    at: float = 0.0
    look: str = ""
    who: str = ""

    @property
    def identity(self) -> str:
        """One name for all pictures of a template."""
        return self.who or template_of(self.name)

    @property
    def stem(self) -> str:
        """One name a picture."""
        return stem_of(self.name) + (f"-{self.look}" if self.look else "")


@dataclass(frozen=True, kw_only=True)
class TemplateClip:
    """An animation, or a `span` of it (0..1) without a cut, in which the mouth of one face moves."""

    name: str
    held: bool = False
    span: tuple[float, float] = (0.0, 1.0)
    who: str = ""

    @property
    def identity(self) -> str:
        """One name a person."""
        return self.who or stem_of(self.name)


def stem_of(name: str) -> str:
    """A file's name without its ending."""
    return name.rsplit(".", 1)[0]


def template_of(name: str) -> str:
    """The template a file belongs to: what is before and after are -1 and -2."""
    return stem_of(name).rsplit("-", 1)[0]


def _resting(kind: str, names: str, held: str = "") -> list[Still]:
    return [Still(name=n + ".webp", kind=kind, held=n in held.split()) for n in names.split()]


def _face(
    name: str, kinds: str, span: tuple[float, float] | None = None, *, rest: bool = False, face: int = 0, least: int = 85,
    look: str = "", who: str = "",
) -> Still:
    kind = "portrait" if span is None else "clip"
    return Still(name=name + ".webp", kind=kind, kinds=tuple(kinds.split()), rest=rest, face=face, span=span or (0.0, 1.0), least=least,
                 look=look, who=who)


def _held(name: str, kinds: str, note: str, at: float = 0.0, look: str = "", who: str = "") -> HeldPicture:
    return HeldPicture(name=name + ".webp", kinds=tuple(kinds.split()), note=note, at=at, look=look, who=who)


def _clips(names: str) -> list[TemplateClip]:
    return [TemplateClip(name=n + ".webp") for n in names.split()]


WHOLE = (0.0, 1.0)
KANDINSKY = "video_kandinsky5_t2v-1"
STILLS = (
    *_resting("portrait", """
        image_z_image_turbo-1 flux1_krea_dev-1 hidream_i1_dev-1 api_bria_genfill-2 api_runway_text_to_image-1
        flux1_dev_uso_reference_image_gen-2 image_qwen_image_instantx_controlnet-1 gsl_creator_2-1 image_moss_image_edit-1
        api_openai_dall_e_3_t2i-1
    """, held="image_z_image_turbo-1 flux1_krea_dev-1 hidream_i1_dev-1"),
    Still(name="image_moss_image_edit-1.webp", face=1), Still(name="templates-subject_product_swap.app-1.webp", face=1),
    *_resting("clip", """
        api_bytedance_seedance1_5_image_to_video-1 api_heygen_video_1_r2v-1 api_heygen_video_1_t2v-1 api_wan_r2v-1
        template_image_speech_to_video-1 video_humo-1 video_kandinsky5_t2v-1 video_ltx2_3_i2v-1
        video_ltx2_3_id_lora-1 video_ltx2_i2v-1 api_google_gemini_omni_flash_1_1_r2v-1
        api_openai_gpt_image_25_sunburst_image_edit-1 video_ltx2_5_t2v-1
        api_vidu_q4_preview_i2v-1 templates_rob_realistic_2k_images_quick_variations.app-1
        api_bria_remove_video_background_transparent-2 utility_sdpose_ood_video_to_pose_map-2
        video_wan2_2_14B_t2v-1 video_wan_vace_outpainting-1
    """, held="video_ltx2_3_id_lora-1 utility_sdpose_ood_video_to_pose_map-2"),
    Still(name="video_minimax_h3_multiframe_reference-1.webp", kind="clip", span=(0.18, 0.38)),
    Still(name="api_seedance2_0_r2v-1.webp", kind="clip", span=(0.0, 0.03)),
    # more people at rest
    _face("hidream_i1_full-1", "", rest=True),
    _face("api_minimax_h3_max_t2v-1", "", WHOLE, rest=True),
    _face("api_happyhorse1_0_video_edit-1", "beard", WHOLE, rest=True, least=70),
    _face("api_happyhorse1_0_video_edit-2", "", WHOLE, rest=True, least=68),
    _face("api_happyhorse1_1_t2v-1", "", (0.0, 0.3), rest=True, least=66),
    _face("api_kling_vto-1", "", rest=True, least=70),
    _face("api_nano_banana_pro-2", "", rest=True, least=68),
    _face("templates-portrait_light_migration-1", "", (0.0, 0.2), rest=True),
    # turned
    _face("api_bytedance_image_to_video-1", "three-quarter dark", (0.0, 0.3)),
    _face("api_grok_text_to_image-1", "three-quarter coloured"),
    _face("api_kling4_i2v-1", "three-quarter glasses close", (0.12, 0.3)),
    _face("api_ltx2_5_t2v-1", "dark", (0.62, 0.72)),
    _face("api_magnific_image_relight-1", "three-quarter coloured close", who="api_magnific_image_relight"),
    _face("api_magnific_image_relight-2", "three-quarter coloured close", who="api_magnific_image_relight"),
    _face("api_magnific_image_upscale_precise-2", "three-quarter close"),
    _face("api_runway_gen4_turbo_image_to_video-1", "three-quarter old", WHOLE),
    _face("api_seedance2_0_mini_r2v-1", "three-quarter", WHOLE, least=75),
    _face("api_stability_ai_stable_image_ultra_t2i-1", "three-quarter glasses painting"),
    _face("api_vidu_q2_t2v-1", "old", (0.6, 1.0)),
    _face("api_wan2_7_t2v-1", "three-quarter", (0.7, 1.0)),
    _face("image_qwen_image_2512_with_2steps_lora-1", "three-quarter beard"),
    _face("templates-subject_holding_product.app-1", "three-quarter old", face=1),
    _face("utility_hitpaw_general_image_enhance-2", "three-quarter close"),
    _face("api_bria_video_replace_background-1", "dark", WHOLE, who=KANDINSKY),
    # light of another colour, or hardly any
    _face("api_wan2_6_t2v-1", "coloured dark", WHOLE, least=80),
    _face("template_ltx2_3_style_transition-1", "coloured", (0.0, 0.3), least=75),
    _face("templates-portrait_light_migration-1", "coloured", (0.92, 1.0), look="red", who="templates-portrait_light_migration-1"),
    _face("templates-portrait_light_migration-1", "coloured dark", (0.63, 0.68), look="blue", who="templates-portrait_light_migration-1"),
    _face("api_topaz_astra2-2", "coloured dark", WHOLE),
    # lips apart, smiles
    _face("api_bytedance_image_to_video-1", "smile parted", (0.5, 1.0), look="smile"),
    _face("api_elevenlabs_v4_text_to_speech-1", "smile parted"),
    _face("api_heygen_avatar_video-1", "smile parted", WHOLE, least=66),
    _face("api_bria_remove_video_background-2", "beard parted", (0.8, 1.0)),
    _face("utility_hitpaw_video_enhance-2", "smile parted beard", WHOLE, face=1),
    _face("video_wan2_2_14B_s2v-1", "three-quarter smile parted beard", WHOLE),
    _face("video_ltx2_t2v_distilled-1", "dark parted", (0.2, 0.6), least=70),
    _face("video_ltx2_i2v-1", "smile parted", WHOLE, look="smile"),
    _face("video_wan2_2_14B_t2v-1", "smile parted", WHOLE, look="smile"),
    _face("video_humo-1", "glasses parted", WHOLE, look="parted"),
    _face("video_ltx2_3_i2v-1", "parted", (0.15, 0.95), look="parted"),
    _face("video_kandinsky5_t2v-1", "dark parted", WHOLE, look="parted"),
    _face("template_image_speech_to_video-1", "close parted", WHOLE, look="parted"),
    _face("api_heygen_video_1_r2v-1", "parted", WHOLE, look="parted"),
    _face("api_heygen_video_1_t2v-1", "smile parted", WHOLE, look="parted"),
    _face("api_wan_r2v-1", "beard parted", (0.0, 0.5), look="parted"),
    _face("api_seedance2_5_t2v-1", "parted beard", (0.74, 1.0), least=70),
    # something before the face, or round it
    _face("api_grok_video-1", "covered", (0.8, 1.0)),
    # glasses
    _face("api_heygen_talking_photo-1", "glasses", (0.0, 0.2)),
    _face("api_heygen_talking_photo-1", "glasses parted", (0.3, 1.0), look="parted"),
    _face("api_kling_avatar2-1", "glasses parted", WHOLE),
    _face("api_grok_imagine_video_1_5_lite_i2v-1", "glasses close coloured", WHOLE),
    _face("image_kandinsky5_t2i-1", "three-quarter glasses smile beard", least=65),
    # drawn and modelled
    _face("api_bfl_flux_pro_t2i-1", "painting", least=75),
    _face("flux_dev_full_text_to_image-1", "painting", least=75),
    _face("image_anima_lllite_any_control_to_image-1", "painting"),
    _face("image_qwen_image_union_control_lora-1", "painting three-quarter", least=75),
    _face("template_qwen_image_illustration_lora-1", "painting three-quarter"),
    _face("api_hailuo_minimax_video-1", "character", WHOLE),
    _face("image_qwen_image_controlnet_patch-1", "character three-quarter", who="image_qwen_image_controlnet_patch"),
    _face("image_qwen_image_controlnet_patch-2", "character three-quarter", who="image_qwen_image_controlnet_patch"),
    _face("video_ltx2_t2v-1", "character parted", WHOLE),
)

HELD = (
    _held("api_nano_banana_2_1_image_edit-1", "dark beard", "dark skin against a bright sky, the face itself in shadow", 0.6),
    _held("api_nano_banana_2_1_image_edit-1", "dark beard coloured", "cold and warm light from the sides, the rest black", 0.8, "night"),
    _held("api_nano_banana_2_1_image_edit-1", "profile glasses dark beard beyond", "profile with dark glasses", 0.0, "profile"),
    _held("api_krea2_t2i-1", "three-quarter glasses coloured", "round dark glasses, red light, chin up"),
    _held("image_longcat_text_to_image-1", "three-quarter glasses coloured beard", "half green, half orange light; glasses"),
    _held("image_firered_image_edit1_1-1", "three-quarter", "about 50 degrees to the side, pale on pale"),
    _held("api_ideogram_v4_5_precise_image_edit-1", "three-quarter", "about 36 degrees over the shoulder", 0.0),
    _held("api_ideogram_v4_5_precise_image_edit-1", "three-quarter glasses", "the same woman with glasses, further away", 1.0, "glasses"),
    _held("image_flux3_klein_distilled_image_edit-1", "three-quarter dark", "dark skin, nearly a profile, an ear-ring beside the cheek"),
    _held("flux_dev_checkpoint_example-1", "smile parted", "broad smile with teeth"),
    _held("template_seedance2_0_viral_videos_character_swap-2", "smile parted", "smiling beside others, letters of a broadcast", 0.0),
    _held("api_veed_fabric_1_0-1", "parted", "mouth wide open, a paper arrow out of it"),
    _held("api_veed_lipsync_2_0-1", "glasses beard parted", "bearded man with glasses who talks, on a collage"),
    _held("api_veed_clean_audio-1", "profile old beyond", "old woman in profile with headphones, on a collage"),
    _held("api_grok_imagine_image_quality_image_edit-1", "three-quarter dark coloured", "hair over the face, red and blue light"),
    _held("api_flux_video_edit-2", "dark", "looks down at his guitar, light from behind", 0.3),
    _held("api_flux_video_edit-1", "animal beyond", "a gorilla with a guitar", 0.6),
    _held("video_ltx2_5_i2v-1", "three-quarter close dark coloured character", "cyborg in neon light, larger than the picture", 0.0),
    _held("api_kling4_r2v-1", "close", "face from the brow to the chin, freckles", 0.0),
    _held("api_kling4_r2v-1", "close smile beyond", "so close that the chin is cut off", 0.2, "closer"),
    _held("utility_recraft_creative_image_upscale-2", "close covered beyond", "larger than the picture, mouth cut off, a butterfly"),
    _held("api_vidu_start_end_to_video-1", "close beyond", "half a face", 0.5),
    _held("api_stability_ai_i2i-1", "painting glasses three-quarter", "old painting with dark glasses"),
    _held("api_stability_ai_i2i-2", "painting glasses three-quarter", "the same of toy bricks"),
    _held("video_wan2_2_14B_flf2v-1", "painting beard", "painter's brush strokes, hat", 0.0),
    _held("video_wan2_2_14B_flf2v-1", "painting beard covered", "the same behind the glass of a helmet", 0.6, "helmet"),
    _held("image_netayume_lumina_t2i-1", "painting smile", "comic with closed eyes and an open mouth"),
    _held("image_to_video_wan-1", "painting beyond", "comic in full figure", 0.0),
    _held("template_seedance2_0_viral_videos_character_swap-1", "character painting", "flat cartoon in a filmed crowd", 0.0),
    _held("templates-color_illustration-2", "painting close beyond", "comic, eyes half of the face"),
    _held("api_veo2_i2v-1", "character", "modelled elf with huge eyes", 0.0, who="green elf"),
    _held("image_omnigen2_image_edit-2", "character", "modelled elf, eyes closed, no nose to speak of", who="green elf"),
    _held("api_ideogram_p_image_t2i-1", "character covered", "a white mask for a face"),
    _held("api_bytedance_seedance1_5_flf2v-1", "animal character beyond", "a capybara with sun-glasses", 1.0),
    _held("api_vidu_q2_i2v-1", "animal character beyond", "a bear of wool", 0.0),
    _held("api_seedance2_5_video_editing-2", "animal beyond", "a cat with sun-glasses", 0.7),
    _held("video_ltx2_i2v_lora-1", "animal beyond", "a puppy between fingers", 0.0),
    _held("flux_depth_lora_example-1", "beyond", "a ghost of clay"),
    _held("Image_capybara_v0_1_text_to_image-1", "profile beyond", "profile"),
    _held("image_z_image_turbo_int8-1", "profile covered beyond", "profile, chin up, a butterfly on the mouth"),
    _held("image_flux3_klein_t2i-1", "profile close covered beyond", "profile that looks down at a ball"),
    _held("api_kling_o3_video_edit-1", "profile beyond", "looks down, in profile", 0.3),
    _held("image_flux2-2", "covered", "a hand and a glass before one eye"),
    _held("api_heygen_video_1_i2v-1", "three-quarter", "hand beside the cheek", 0.0),
    _held("api_heygen_video_1_i2v-1", "covered", "a hand before half of the face", 0.6, "hand"),
    _held("api_kling_omni_image-1", "covered", "a hat down to the nose"),
    _held("api_openrouter_mai_image_26_flash-1", "covered three-quarter", "wet hair over the face, flowers"),
    _held("api_openai_gpt_image_2_t2i-1", "covered dark coloured", "red letters across the nose"),
    _held("utility_recraft_crisp_image_upscale-2", "covered beyond", "a rose before the face"),
    _held("api_bria_guided_remove_background-2", "covered beard", "a drawn bow before the chin"),
    _held("templates_rob_portrait_light_migration.app-2", "covered dark", "a glittering blindfold under a hood"),
    _held("api_wan2_7_r2v-1", "glasses parted", "goggles", 0.0),
    _held("api_kling_o3_flf2v-1", "glasses three-quarter", "yellow glasses, a horse's head beside the face", 0.0),
    _held("utility_sdpose_multi_person-1", "several smile glasses parted", "seven people, laughing", 0.0),
)
CLIPS = (
    *_clips("""
        api_bytedance_seedance1_5_image_to_video-1 api_heygen_talking_photo-1 api_heygen_video_1_r2v-1 api_heygen_video_1_t2v-1
        api_kling_avatar2-1 api_wan2_6_t2v-1 template_image_speech_to_video-1 video_humo-1
        video_kandinsky5_t2v-1 video_ltx2_3_i2v-1 video_ltx2_i2v-1 video_ltx2_t2v-1 video_wan2_2_14B_s2v-1
        api_sync_so_talking_image-1 api_heygen_avatar_video-1 video_wan2_2_14B_t2v-1
    """),
    TemplateClip(name="api_wan_r2v-1.webp", span=(0.0, 0.55)),
    TemplateClip(name="api_bria_remove_video_background-2.webp", span=(0.6, 1.0)),
    TemplateClip(name="api_bytedance_image_to_video-1.webp", span=(0.3, 1.0)),
    TemplateClip(name="video_ltx2_t2v_distilled-1.webp", span=(0.1, 0.75)),
    TemplateClip(name="api_seedance2_5_t2v-1.webp", span=(0.74, 1.0)),
    TemplateClip(name="api_ltx2_5_t2v-1.webp", span=(0.62, 1.0)),
    TemplateClip(name="video_ltx2_3_id_lora-1.webp", held=True),
    TemplateClip(name="api_heygen_video_1_i2v-1.webp", held=True, span=(0.0, 0.2), who="api_heygen_video_1_i2v"),
    TemplateClip(name="template_seedance2_0_viral_videos_character_swap-2.webp", held=True, span=(0.0, 0.2),
              who="template_seedance2_0_viral_videos_character_swap"),
)
